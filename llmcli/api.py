"""The public face: load a model, and do with it what the command line does."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_args

from llmcli.engine.params import SamplingParams
from llmcli.errors import InvalidInput
from llmcli.models import language_model
from llmcli.models.kinds import Kind
from llmcli.models.loader import load_as
from llmcli.models.options import LoadOptions
from llmcli.reporting import Notify, silent

if TYPE_CHECKING:
    from llmcli.scoring.calibration import Calibration
    from llmcli.tasks.answers import Answers
    from llmcli.tasks.chat import Reply
    from llmcli.tasks.encode import Tokens
    from llmcli.tasks.fill import FillAnswer
    from llmcli.tasks.generate import Continuation
    from llmcli.tasks.generate_answer import GenerateAnswer
    from llmcli.tasks.next import NextAnswer
    from llmcli.tasks.rank import RankAnswer
    from llmcli.tasks.score import ScoreAnswer
    from llmcli.tokenization.tokenizer import SpecialTokens


class LanguageModel(language_model.LanguageModel):
    """A model ready to use; made by :func:`load`.

    What it returns are small frozen dataclasses: ``to_dict()`` is what the command of the same
    name prints with ``--json``, and a notebook shows them as tables.
    """

    def __repr__(self) -> str:
        return f"<llmcli.LanguageModel {self.name} ({self.precision} on {self.device})>"

    def encode(self, text: str, *, special: SpecialTokens = "text") -> Tokens:
        """Split a text into tokens: ids, bytes, and positions in the text. Adds no token.

        Args:
            text: Any text.
            special: How to treat control tokens spelt out in it: as ``text``, as tokens
                (``allow``), or as an error (``forbid``).

        Raises:
            InvalidInput: the text spells out a control token, with ``forbid``.
        """
        from llmcli.tasks.encode import Encoder

        encoder = Encoder(tokenizer=self.tokenizer, model=self.resolved, special=special)
        return encoder.tokens(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Turn token ids into text; bytes that are not UTF-8 become U+FFFD.

        Raises:
            InvalidInput: an id is outside the vocabulary.
        """
        from llmcli.io.id_records import IdRecord
        from llmcli.tasks.decode import Decoder

        record = IdRecord(parts=[list(ids)], place="The ids")
        return Decoder(tokenizer=self.tokenizer, errors="replace").text(record).text

    def generate(self, prompt: str, *, seed: int | None = None, **settings: Any) -> GenerateAnswer:
        """Continue a text; ``str()`` of the answer is the continuation.

        An encoder-decoder model answers it instead. Only those models take ``source_lang``,
        ``target_lang`` and ``prefix`` (the beginning of the answer).

        Args:
            prompt: The text to continue; not empty.
            seed: Makes the result repeatable. None draws one.
            settings: Any field of SamplingParams. The defaults are those in the model's
                generation_config.json, else temperature 0.8 and top_p 0.95. With ``logprobs=K``
                the answer has the tokens and their K likeliest alternatives.

        Raises:
            InvalidInput: a setting is out of range, the prompt is empty or too long.
            NumericalError: the model's logits are NaN or infinite.
        """
        from llmcli.tasks.generate_answer import generate_answer

        params, answers = self._asked(seed, settings)
        if params.num_return_sequences > 1:
            raise InvalidInput(
                "generate returns one continuation, and several are asked for.",
                "Call it with several seeds.",
            )
        continuation = self._continued(prompt, params, answers)
        events = list(continuation.events)
        return generate_answer(self, params, prompt, continuation.prompt_tokens, events)

    def stream(self, prompt: str, *, seed: int | None = None, **settings: Any) -> Iterator[str]:
        """Continue a text piece by piece; joined, the pieces are the continuation.

        Takes the arguments of :meth:`generate` and raises its errors, at the call rather than with
        the first piece.
        """
        events = self._continued(prompt, *self._asked(seed, settings)).events
        return (event.text for event in events if event.text)

    def fill(self, text: str, *, count: int = 10) -> FillAnswer:
        """List the likeliest tokens for each gap in a text, with a masked model.

        If there are several gaps, each is filled with the others left open.

        Args:
            text: A text with ``[MASK]``, or the model's own mask token, for each gap.
            count: Number of tokens for each gap.

        Raises:
            UnsupportedModel: the model is not a masked model.
            InvalidInput: the text has no gap, or is too long.
            NumericalError: the model's logits are NaN or infinite.
        """
        from llmcli.tasks.fill import fill_gaps

        return fill_gaps(self, text, count=count)

    def next(self, prompt: str, *, count: int = 10, **settings: Any) -> NextAnswer:
        """List the likeliest next tokens, before and after the sampling filters.

        Args:
            prompt: The text so far; not empty.
            count: Number of tokens.
            settings: Any field of SamplingParams.

        Raises:
            InvalidInput, NumericalError: as for :meth:`generate`.
        """
        from llmcli.tasks.next import predict

        return predict(self, prompt, _known(settings), count=count)

    def score(self, text: str, **how: Any) -> ScoreAnswer:
        """Measure how well the model predicts a text: perplexity, nats, bits per byte, an interval.

        Args:
            text: Any text.
            how: Fields of ScoreRequest: ``convention``, ``context``, ``stride``, ``bos``,
                ``prompt`` (read first, but not scored), ``special``, ``batch_size``.

        Raises:
            InvalidInput: a setting is wrong, or nothing in the text can be scored.
            NumericalError: the model's logits are NaN or infinite.
        """
        from llmcli.tasks.score import ScoreRequest, Scoring

        _check_names(how, {each.name for each in fields(ScoreRequest)}, "ScoreRequest")
        scoring = Scoring(model=self, request=ScoreRequest(**how))
        return scoring.whole([text], lambda scorer: nullcontext(lambda window, scores: None))

    def rank(self, prompt: str, choices: Sequence[str], **how: Any) -> RankAnswer:
        """Rank continuations of a prompt by how likely they are.

        Args:
            prompt: The text that they continue; may be empty.
            choices: At least one.
            how: Other fields of RankRequest: ``normalize``, ``delimiter``, ``bos``.

        Raises:
            InvalidInput: a choice is empty, occurs twice or does not fit.
            NumericalError: the model's logits are NaN or infinite.
        """
        from llmcli.tasks.rank import RankRequest, rank_choices

        _check_names(how, {"normalize", "delimiter", "bos"}, "RankRequest")
        return rank_choices(self, RankRequest(prompt=prompt, choices=tuple(choices), **how))

    def calibrate(self, text: str, *, bins: int = 15, holdout: float = 0.5) -> Calibration:
        """Measure whether the model's probabilities are right on a text.

        Args:
            text: The text. It should be long: below a few thousand tokens the figures say little.
            bins: Number of bins of equal width, 1 to 1,000.
            holdout: Fraction of the text to hold out when fitting the temperature.

        Raises:
            InvalidInput: a setting is out of range, or nothing in the text can be scored.
            NumericalError: the model's logits are NaN or infinite.
        """
        from llmcli.tasks.calibrate import calibrate

        return calibrate(self, [text], bins=bins, holdout=holdout)[0]

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        template: str | None = None,
        seed: int | None = None,
        **settings: Any,
    ) -> Reply:
        """Answer a conversation, formatted with the model's chat template.

        Args:
            messages: Objects with ``role`` ("system", "user" or "assistant") and ``content``.
            template: The name of a built-in layout, or a file. None is the model's own.
            seed: As for :meth:`generate`, like the settings.

        Raises:
            InvalidInput: the model has no template, or it refuses the messages.
            ContextOverflow: the messages that cannot be left out do not fit.
            NumericalError: the model's logits are NaN or infinite.
        """
        from llmcli.tasks.chat import Conversation, Message, Reply, check_messages, template_for

        talk = Conversation(
            model=self,
            template=template_for(self, template),
            params=self._params(seed, settings),
            messages=[Message(each["role"], each["content"]) for each in messages],
        )
        check_messages(talk.messages, source="The messages")
        reply = Reply()
        try:
            for _ in talk.answer(reply):
                pass
        finally:
            talk.forget()
        return reply

    def _params(self, seed: int | None, settings: dict[str, Any]) -> SamplingParams:
        from llmcli.tasks.prompts import sampling_params

        return sampling_params(self, {**_known(settings), "seed": seed})

    def _asked(
        self, seed: int | None, settings: dict[str, Any]
    ) -> tuple[SamplingParams, Answers | None]:
        """Settings, and how an encoder with a decoder is asked."""
        from llmcli.tasks.answers import Answers, AnswerSettings

        names = {each.name for each in fields(AnswerSettings)} & settings.keys()
        own = AnswerSettings(**{name: settings[name] for name in names})
        params = self._params(seed, {k: v for k, v in settings.items() if k not in names})
        own.check(self, overflow=params.overflow)
        if self.kind != "encoder-decoder":
            return params, None
        answers = Answers(self, own)
        return answers.params(params), answers

    def _continued(
        self, prompt: str, params: SamplingParams, answers: Answers | None
    ) -> Continuation:
        from llmcli.tasks.generate import continue_text

        return continue_text(self, prompt, params, answers=answers)


def _known(settings: dict[str, Any]) -> dict[str, Any]:
    _check_names(settings, {each.name for each in fields(SamplingParams)}, "SamplingParams")
    return settings


def _check_names(given: Mapping[str, Any], known: Collection[str], where: str) -> None:
    if unknown := given.keys() - set(known):
        raise InvalidInput(f"There is no setting {min(unknown)!r}.", f"See {where}.")


def load(
    model: str | None = None,
    *,
    notify: Notify = silent,
    detail: Notify = silent,
    **options: Any,
) -> LanguageModel:
    """Find a model and load it.

    Args:
        model: A folder, the bundled model's name, or a Hub id. None is gpt2, or the bundled
            model if gpt2 cannot be fetched.
        notify: Called with each notice for the user, one sentence.
        detail: Called with each detail, one sentence, as ``-v`` prints them.
        options: Any other field of LoadOptions, such as ``precision="int8"``.

    Raises:
        ModelError: the model cannot be found or used; the subclass says why.
        InvalidInput: an option is wrong.
        OutOfMemory: it does not fit.
    """
    unknown = options.keys() - {each.name for each in fields(LoadOptions)}
    if unknown:
        raise InvalidInput(f"There is no option {min(unknown)!r}.", "See LoadOptions.")
    wanted = LoadOptions(model=model, **options)
    resolved = wanted.resolve(notify=notify)
    return load_as(
        LanguageModel, resolved, wanted, kinds=get_args(Kind), notify=notify, detail=detail
    )

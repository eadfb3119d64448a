"""Texts continued: one, or many in the order of their coming; and what drafts for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from llmcli.engine.params import DraftStats, SamplingParams, TokenEvent
from llmcli.errors import InvalidInput, LlmcliError, NumericalError, UnsupportedModel
from llmcli.reporting import working
from llmcli.tasks.answers import Answers
from llmcli.tasks.prompts import encode_prompt, for_prompt, prepare_prompt, with_stops
from llmcli.tasks.ready_prompts import ReadyPrompt

if TYPE_CHECKING:
    from llmcli.engine.decoder import Decoder
    from llmcli.engine.scheduler import Handle, Request, Scheduler, SequenceError
    from llmcli.engine.speculative import Draft
    from llmcli.engine.transcript import Prompt
    from llmcli.models.language_model import LanguageModel
    from llmcli.tokenization.tokenizer import SpecialTokens

K = TypeVar("K")

# How many sequences go together where nobody said so.
DEFAULT_BATCH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """A continuation under way.

    Attributes:
        prompt_tokens: How many tokens the prompt has, before anything was dropped.
        dropped_tokens: How many of them were dropped to make room.
        events: The steps, made as they are asked for.
        threads: Tells how many threads the latest step took; None for a server's.
    """

    prompt_tokens: int
    dropped_tokens: int
    events: Iterator[TokenEvent]
    threads: Callable[[], int] | None = None


def continue_text(
    model: LanguageModel,
    text: str | ReadyPrompt,
    params: SamplingParams,
    *,
    bos: bool = False,
    heal: bool = False,
    special: SpecialTokens = "text",
    should_stop: Callable[[], bool] = bool,
    draft: Draft | None = None,
    draft_stats: DraftStats | None = None,
    batch_size: int = 1,
    record: int = 0,
    answers: Answers | None = None,
) -> Continuation:
    """Encode a text, cut it to the context, load the model, and be ready to continue.

    What is made ready already must fit as it is.

    An encoder with a decoder reads the text, and what is continued is its answer; ``answers``
    says how it begins.

    ``num_return_sequences`` are decoded ``batch_size`` at a time where that is exact (see
    :func:`slots_for`). ``record`` is the text's place among others, of which
    the random numbers of its sequences are made.

    Raises:
        InvalidInput: the text is empty or does not fit; settings that exclude each other.
        ModelError: the model cannot be loaded.
    """
    from llmcli.engine.generation import generate

    source: tuple[int, ...] = ()
    token_bytes: Callable[[int], bytes] = model.token_bytes
    eos_ids = model.eos_ids
    if isinstance(text, ReadyPrompt):
        if params.overflow in ("left", "middle"):
            raise InvalidInput(
                f"overflow {params.overflow} does not go with messages or a suffix.",
                "They must fit the context whole; leave it out.",
            )
        params = for_prompt(with_stops(params, text.stops), len(text.ids))
        eos_ids = tuple(dict.fromkeys((*eos_ids, *text.eos_ids)))
        prompt = prepare_prompt(model, list(text.ids), params, heal=heal)
        prompt_tokens = len(text.ids)
    elif model.kind == "encoder-decoder":
        answers = answers or Answers(model, special=special)
        params, token_bytes = answers.params(params), answers.token_bytes
        source, dropped = answers.source(text, params)
        prompt = answers.prompt(params, dropped)
        params = for_prompt(params, len(prompt.ids))
        prompt_tokens = len(source) + dropped
    else:
        ids = encode_prompt(model, text, bos=bos, special=special, overflow=params.overflow)
        params = for_prompt(params, len(ids))
        prompt = prepare_prompt(model, ids, params, heal=heal)
        prompt_tokens = len(ids)
    if params.num_beams > 1 and prompt.healing_ids:
        raise InvalidInput("Healing does not work with beam search.", "Leave one of them out.")
    decoder = model.answering(source) if source else model.decoder()
    working(f"reading the prompt: {prompt_tokens:,} tokens")
    if params.num_beams > 1:
        events = _beam_events(
            model, decoder, prompt, params, record, token_bytes, eos_ids, should_stop
        )
    else:
        events = generate(
            decoder,
            prompt,
            params,
            token_bytes=token_bytes,
            eos_ids=eos_ids,
            record=record,
            batch_size=slots_for(model, decoder, params, draft, batch_size),
            should_stop=should_stop,
            draft=draft,
            draft_stats=draft_stats,
        )
    return Continuation(
        prompt_tokens=prompt_tokens,
        dropped_tokens=prompt.dropped_tokens,
        events=events,
        threads=lambda: decoder.threads,
    )


def _beam_events(
    model: LanguageModel,
    decoder: Decoder,
    prompt: Prompt,
    params: SamplingParams,
    record: int,
    token_bytes: Callable[[int], bytes],
    eos_ids: tuple[int, ...],
    should_stop: Callable[[], bool],
) -> Iterator[TokenEvent]:
    """Replay what beam search found, as the loop would have told it."""
    from llmcli.engine.beams import beam_search
    from llmcli.engine.transcript import Transcript, replay

    room = model.n_positions - len(prompt.ids)
    asked = room if params.max_new_tokens is None else min(params.max_new_tokens, room)
    found = beam_search(
        decoder,
        prompt.ids,
        replace(params, max_new_tokens=asked),
        max_new_tokens=asked,
        eos_ids=eos_ids,
        record=record,
        should_stop=should_stop,
    )
    for index, tokens in enumerate(found):
        transcript = Transcript(
            prompt,
            params,
            n_positions=model.n_positions,
            token_bytes=token_bytes,
            eos_ids=eos_ids,
            index=index,
        )
        yield from replay(transcript, tokens)
        if transcript.finish_reason is None:  # the search was stopped
            yield transcript.interrupt()


# -- many texts ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(Generic[K]):
    """A text of a batch.

    Attributes:
        key: What it is known by.
        number: Which record of the whole job it is: it goes into the random numbers.
        text: The text, or why there is none.
    """

    key: K
    number: int
    text: str | InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Told(Generic[K]):
    """A step of one text's continuation, or why it has none (or no further one).

    Attributes:
        key: What the text was given under.
        number: Which record it is.
        prompt_tokens: How many tokens the prompt has, before anything was dropped.
        event: The step; None with an error, which is the last that is told of a text.
        error: What is wrong with this text.
    """

    key: K
    number: int
    prompt_tokens: int = 0
    event: TokenEvent | None = None
    error: SequenceError | None = None


def slots_for(
    model: LanguageModel,
    decoder: Decoder,
    params: SamplingParams,
    draft: Draft | None,
    batch_size: int | None,
) -> int:
    """How many sequences to decode at once; a notice where more were asked for in vain.

    None for ``batch_size`` leaves it to us: several where that changes no bit of a logit.
    """
    reason = None
    if decoder.rows_alike == 1:
        # Measured: a quarter of the texts or all of them would change in bfloat16.
        reason = "several at once are rounded differently from one here"
    elif draft is not None:
        reason = "a draft looks ahead in one of them"
    if reason is None:
        return batch_size or DEFAULT_BATCH
    if batch_size is not None and batch_size > 1:
        model.notify(f"Continuations are decoded one at a time: {reason}.")
    return 1


def continue_batch(
    model: LanguageModel,
    texts: Iterable[Text[K] | None],
    params: SamplingParams,
    *,
    batch_size: int | None = None,
    bos: bool = False,
    heal: bool = False,
    special: SpecialTokens = "text",
    should_stop: Callable[[], bool] = bool,
    draft: Draft | None = None,
    draft_stats: DraftStats | None = None,
    answers: Answers | None = None,
) -> Iterator[Told[K]]:
    """Continue texts, ``batch_size`` sequences at a time; all of a text's come before the next's.

    A text's continuation depends on the model, the settings, the seed and the text's number; not
    on ``batch_size`` nor on its neighbours. Texts are taken from the iterator as there is room.
    What is wrong with one of them is told in its place.

    Args:
        model: The model.
        texts: What to continue; an error in a text's place is passed on. None says that the next
            text must be waited for: what is under way is brought to its end first.
        params: Settings, the same for all.
        batch_size: How many sequences at once; None for several where that is exact.
        bos: Put the begin-of-text token first.
        heal: Let the model re-divide each prompt's last token.
        special: What control tokens in a text are.
        should_stop: Asked once a step; true ends what is under way as "interrupted", and
            nothing is begun after it.
        draft: Proposes tokens.
        draft_stats: Counts what it proposed.
        answers: How an encoder with a decoder is asked.

    Raises:
        ModelError: the model cannot be loaded.
    """
    plan = _Plan(model=model, params=params, bos=bos, heal=heal, special=special, answers=answers)
    reason = None
    if params.num_beams > 1:
        reason = "beam search fills a batch by itself"
    elif model.kind == "encoder-decoder":
        reason = "each answers a text of its own"
    if reason is not None:
        if batch_size is not None and batch_size > 1:
            model.notify(f"Continuations are decoded one at a time: {reason}.")
        return _one_by_one(plan, texts, should_stop)
    from llmcli.engine.scheduler import Scheduler

    decoder = model.decoder()
    scheduler = Scheduler(
        decoder,
        token_bytes=model.token_bytes,
        eos_ids=model.eos_ids,
        slots=slots_for(model, decoder, params, draft, batch_size),
        draft=draft,
        draft_stats=draft_stats,
    )
    return _Batch(plan, texts, scheduler, should_stop).run()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is the same for all texts."""

    model: LanguageModel
    params: SamplingParams
    bos: bool
    heal: bool
    special: SpecialTokens
    answers: Answers | None


def _one_by_one(
    plan: _Plan, texts: Iterable[Text[K] | None], should_stop: Callable[[], bool]
) -> Iterator[Told[K]]:
    """Each text for itself, a text after the other."""
    for each in texts:
        if each is None:
            continue
        if should_stop():
            return
        if isinstance(each.text, InvalidInput):
            yield Told(key=each.key, number=each.number, error=each.text)
            continue
        try:
            continuation = continue_text(
                plan.model,
                each.text,
                plan.params,
                bos=plan.bos,
                heal=plan.heal,
                special=plan.special,
                should_stop=should_stop,
                record=each.number,
                answers=plan.answers,
            )
            for event in continuation.events:
                yield Told(
                    key=each.key,
                    number=each.number,
                    prompt_tokens=continuation.prompt_tokens,
                    event=event,
                )
                if event.finish_reason == "interrupted":
                    return
        except (InvalidInput, NumericalError) as exc:
            yield Told(key=each.key, number=each.number, error=exc)


class _Batch(Generic[K]):
    """Feeds a scheduler with texts, and tells what comes of them and what is wrong with them."""

    def __init__(
        self,
        plan: _Plan,
        texts: Iterable[Text[K] | None],
        scheduler: Scheduler,
        should_stop: Callable[[], bool],
    ) -> None:
        self._plan = plan
        self._texts = iter(texts)
        self._scheduler = scheduler
        self._should_stop = should_stop
        self._keys: dict[int, tuple[K, int]] = {}  # by number: the key, the prompt's tokens
        self._failed = -1  # the last text of which an error was told
        self._failure: LlmcliError | None = None

    def run(self) -> Iterator[Told[K]]:
        """Yield what comes of all texts, in their order."""
        from llmcli.engine.in_order import in_order

        try:
            for handle, told in in_order(self._scheduler, self._requests(), self._should_stop):
                if handle.request.record != self._failed:
                    yield self._told(handle, told)
        finally:
            self._scheduler.close()
        if self._failure is not None:
            raise self._failure

    def _told(self, handle: Handle, told: TokenEvent | SequenceError) -> Told[K]:
        number = handle.request.record
        key, prompt_tokens = self._keys[number]
        if not isinstance(told, TokenEvent):
            self._failed = number  # as alone, where nothing is made after an error
            del self._keys[number]
            return Told(key=key, number=number, error=told)
        last = handle.request.index == self._plan.params.num_return_sequences - 1
        if last and told.finish_reason is not None:
            del self._keys[number]
        return Told(key=key, number=number, prompt_tokens=prompt_tokens, event=told)

    def _requests(self) -> Iterator[Request | Handle | None]:
        """Yield the sequences of all texts, and what is wrong with others in their places."""
        from llmcli.engine.in_order import refused
        from llmcli.engine.scheduler import Request

        plan = self._plan
        try:
            for each in self._texts:
                if each is None:
                    yield None
                    continue
                try:
                    if isinstance(each.text, InvalidInput):
                        raise each.text
                    ids = encode_prompt(
                        plan.model,
                        each.text,
                        bos=plan.bos,
                        special=plan.special,
                        overflow=plan.params.overflow,
                    )
                    params = for_prompt(plan.params, len(ids))
                    prompt = prepare_prompt(plan.model, ids, params, heal=plan.heal)
                except InvalidInput as exc:
                    self._keys[each.number] = each.key, 0
                    yield refused(each.number, plan.params, exc)
                    continue
                self._keys[each.number] = each.key, len(ids)
                for index in range(plan.params.num_return_sequences):
                    if each.number == self._failed:
                        break
                    yield Request(prompt=prompt, params=params, record=each.number, index=index)
        except LlmcliError as exc:
            self._failure = exc  # the input breaks off; what came before it is done first


# -- drafts --------------------------------------------------------------------------------


def make_draft(
    name: str, model: LanguageModel, load_other: Callable[[str], LanguageModel]
) -> Draft:
    """Return the draft that a name stands for.

    Args:
        name: ``ngram``, ``int8``, or a model.
        model: The model that will check the proposals.
        load_other: Loads a model by name.

    Raises:
        InvalidInput: the named model has another vocabulary.
        UnsupportedModel: int8, for a model that the fast decoder cannot run.
        ModelError: the named model cannot be had or loaded.
    """
    from llmcli.engine.speculative import ModelDraft, NgramDraft

    if name == "ngram":
        return NgramDraft()
    if name == "int8":
        return ModelDraft(_quantised(model).decoder())
    other = load_other(name)
    if other.tokenizer.backend.get_vocab() != model.tokenizer.backend.get_vocab():
        raise InvalidInput(
            f"{name} has another vocabulary than {model.name}.",
            "A draft model must share the model's tokenizer: distilgpt2 goes with gpt2-xl.",
        )
    return ModelDraft(other.decoder())


def _quantised(model: LanguageModel) -> LanguageModel:
    from llmcli.models.loader import load_resolved
    from llmcli.models.options import LoadOptions

    options = LoadOptions(
        device="cpu",
        precision="int8",
        threads=model.threads,
        allow_pickle=model.allow_pickle,
        trust_remote_code=model.trust_remote_code,
    )
    quantised = load_resolved(model.resolved, options, notify=model.notify, detail=model.detail)
    if model.device != "cpu" or quantised.packed is None:
        raise UnsupportedModel(
            f"{model.name} cannot be quantised to int8 here.", "Use --draft ngram."
        )
    return quantised

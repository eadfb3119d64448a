"""Which of several continuations a model finds most likely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from llmcli.errors import ContextOverflow, InvalidInput
from llmcli.io.batch_run import one_by_one
from llmcli.scoring.statistics import Normalize, normalized
from llmcli.scoring.windows import Window
from llmcli.tasks.batch import Verb, made_by
from llmcli.tasks.notebook import html_table
from llmcli.tasks.provenance import provenance

if TYPE_CHECKING:
    from llmcli.io.records import Record
    from llmcli.models.language_model import LanguageModel
    from llmcli.scoring.likelihood import Likelihood
    from llmcli.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedChoice:
    """A continuation and how likely it is.

    Attributes:
        index: Its place among the choices given, from 0.
        choice: The text as given.
        tokens: How many tokens it has after the prompt.
        bytes: Its bytes of UTF-8.
        logprob: Log-likelihood given the prompt, nats, summed over its tokens.
        unconditional: The same given BOS alone; None unless the normalisation is pmi.
        score: What it is ranked by.
        probability: Softmax of the scores over the choices.
    """

    index: int
    choice: str
    tokens: int
    bytes: int
    logprob: float
    unconditional: float | None
    score: float
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRequest:
    """What to rank, and how; as the arguments of `rank`, but that no ``bos`` is the tokenizer's."""

    prompt: str
    choices: tuple[str, ...]
    normalize: Normalize = "none"
    delimiter: str | None = None
    bos: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RankAnswer:
    """Ranked choices and all that made them.

    Attributes:
        request: What was asked.
        ranked: The choices, the likeliest first.
        model: Where the model is from, as `provenance` tells it.
    """

    request: RankRequest
    ranked: list[RankedChoice]
    model: dict[str, Any]

    def choices(self) -> list[dict[str, Any]]:
        """The choices, ready for JSON."""
        return [asdict(each) for each in self.ranked]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "prompt": self.request.prompt,
            "normalize": self.request.normalize,
            "choices": self.choices(),
            **self.model,
        }

    def _repr_html_(self) -> str:
        rows = [[each.choice, each.probability, each.logprob, each.tokens] for each in self.ranked]
        return html_table(["choice", "probability", "logprob", "tokens"], rows)


def rank_choices(model: LanguageModel, request: RankRequest) -> RankAnswer:
    """Rank continuations of a prompt with a model; errors as for `rank`."""
    from llmcli.scoring.likelihood import Likelihood

    tokenizer = model.tokenizer
    ranked = rank(
        Likelihood(model.decoder()),
        tokenizer,
        request.prompt,
        request.choices,
        n_positions=model.n_positions,
        bos_id=tokenizer.start_id,
        bos=tokenizer.adds_bos if request.bos is None else request.bos,
        normalize=request.normalize,
        delimiter=request.delimiter,
    )
    return RankAnswer(request=request, ranked=ranked, model=provenance(model))


def rank_records(
    model: LanguageModel, request: RankRequest, *, choices_field: str = "choices"
) -> Verb:
    """Rank the continuations of each record's text.

    Args:
        model: The model.
        request: How; the prompt is each record's.
        choices_field: Where a record has its choices, if the request has none.
    """

    def answer(record: Record) -> dict[str, Any]:
        choices = request.choices or _choices(record, choices_field)
        asked = replace(request, prompt=record.text, choices=choices)
        return rank_choices(model, asked).to_dict()

    return Verb(
        work=one_by_one(
            answer, tokens=lambda made: sum(each["tokens"] for each in made["choices"])
        ),
        threads=model.threads or 1,
        made_by=made_by(
            "rank",
            model,
            choices=list(request.choices) or None,
            choices_field=None if request.choices else choices_field,
            normalize=request.normalize,
            delimiter=request.delimiter,
            bos=request.bos,
        ),
    )


def _choices(record: Record, field: str) -> tuple[str, ...]:
    found = record.fields.get(field)
    if not isinstance(found, list) or not found or not all(isinstance(e, str) for e in found):
        raise InvalidInput(
            f"{record.place} has no list of texts in the field {field!r}.",
            "Name the field with --choices-field, or give the choices as arguments.",
        )
    return tuple(found)


def join_choice(prompt: str, choice: str, delimiter: str | None) -> str:
    """What stands behind the prompt: the choice, with the delimiter before it.

    None for the delimiter means a space, unless the prompt is empty or either side has white
    space there already.
    """
    if delimiter is not None:
        return delimiter + choice
    bare = bool(prompt) and not prompt[-1].isspace() and not choice[:1].isspace()
    return " " + choice if bare else choice


def rank(
    likelihood: Likelihood,
    tokenizer: Tokenizer,
    prompt: str,
    choices: Sequence[str],
    *,
    n_positions: int,
    bos_id: int | None,
    bos: bool = False,
    normalize: Normalize = "none",
    delimiter: str | None = None,
) -> list[RankedChoice]:
    """Rank continuations of a prompt, the most likely first.

    Args:
        likelihood: The model.
        tokenizer: Its tokenizer; prompt and choice are encoded together, as
            lm-evaluation-harness does.
        prompt: What comes before; an empty one is BOS alone.
        choices: At least one; none empty.
        n_positions: The model's context.
        bos_id: Its BOS, None where it has none.
        bos: Put BOS before a prompt that is not empty.
        normalize: Rank by the log-likelihood as it is, per token, per byte, or less that of the
            choice given BOS alone (pointwise mutual information).
        delimiter: As for `join_choice`.

    Raises:
        InvalidInput: an empty choice, no choice, or no BOS where one is needed.
        ContextOverflow: prompt and choice together do not fit into the context.
    """
    if not choices:
        raise InvalidInput("There is no choice.", "Give at least one.")
    if any(not choice for choice in choices):
        place = next(index for index, choice in enumerate(choices, 1) if not choice)
        raise InvalidInput(f"Choice {place} is empty.", "Give each choice some text.")
    windows = choice_windows(
        tokenizer,
        prompt,
        choices,
        n_positions=n_positions,
        bos_id=bos_id,
        bos=bos,
        delimiter=delimiter,
    )
    # Two groups: what the choices share with each other they do not share with the choices alone.
    with likelihood.session() as score:
        found = [math.fsum(each.logprobs) for each in score(windows)]
        alone: list[float] | None = None
        if normalize == "pmi":
            bare = [
                _window(
                    [_needed(bos_id)],
                    tokenizer.ids(join_choice(prompt, choice, delimiter)),
                    n_positions,
                    index,
                )
                for index, choice in enumerate(choices)
            ]
            alone = [math.fsum(each.logprobs) for each in score(bare)]
    return _ranked(choices, found, alone, [window.scored for window in windows], normalize)


def choice_windows(
    tokenizer: Tokenizer,
    prompt: str,
    choices: Sequence[str],
    *,
    n_positions: int,
    bos_id: int | None,
    bos: bool,
    delimiter: str | None,
) -> list[Window]:
    """What is scored to rank choices: each after the prompt. Arguments and errors as for `rank`."""
    from llmcli.scoring.texts import split_pair

    windows = []
    for index, choice in enumerate(choices):
        before, after = split_pair(tokenizer, prompt, join_choice(prompt, choice, delimiter))
        if bos or not before:
            before = [_needed(bos_id), *before]
        if not after:
            raise InvalidInput(
                f"Choice {index + 1} ({choice!r}) has no tokens of its own after the prompt.",
                "End the prompt earlier, or give a --delimiter.",
            )
        windows.append(_window(before, after, n_positions, index))
    return windows


def _ranked(
    choices: Sequence[str],
    found: Sequence[float],
    alone: Sequence[float] | None,
    sizes: Sequence[int],
    normalize: Normalize,
) -> list[RankedChoice]:
    scores = [
        normalized(
            found[index],
            normalize,
            tokens=sizes[index],
            size=len(choice.encode()),
            unconditional=0.0 if alone is None else alone[index],
        )
        for index, choice in enumerate(choices)
    ]
    highest = max(scores)
    total = math.fsum(math.exp(score - highest) for score in scores)
    ranked = [
        RankedChoice(
            index=index,
            choice=choice,
            tokens=sizes[index],
            bytes=len(choice.encode()),
            logprob=found[index],
            unconditional=None if alone is None else alone[index],
            score=scores[index],
            probability=math.exp(scores[index] - highest) / total,
        )
        for index, choice in enumerate(choices)
    ]
    return sorted(ranked, key=lambda each: -each.score)


def _needed(bos_id: int | None) -> int:
    if bos_id is None:
        raise InvalidInput(
            "The model's tokenizer has neither a BOS nor an end-of-text token.",
            "Give a prompt, and another --normalize than pmi.",
        )
    return bos_id


def _window(before: list[int], after: list[int], n_positions: int, index: int) -> Window:
    tokens = [*before, *after]
    if len(tokens) - 1 > n_positions:
        raise ContextOverflow(
            f"The prompt and choice {index + 1} have {len(tokens)} tokens; the model takes "
            f"{n_positions + 1}.",
            "Shorten the prompt.",
        )
    return Window(tokens, len(before), 0)

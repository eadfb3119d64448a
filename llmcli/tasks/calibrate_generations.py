"""Whether a model stays calibrated while it writes, by depth; and the settings that make it so."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from llmcli.engine.params import SamplingParams
from llmcli.errors import InvalidInput
from llmcli.io.records import Record
from llmcli.tasks.provenance import provenance, settings_record

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel
    from llmcli.scoring.generations import Continuations, Mean

Knob = Literal["temperature", "min_p"]

# Where a setting is looked for.
_RANGES: dict[Knob, tuple[float, float]] = {"temperature": (0.25, 2.5), "min_p": (0.0, 0.9)}
# Entropy and loss that differ by less, in nats, are taken for the same.
_CLOSE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Continued:
    """A prompt, and what people wrote after it.

    Attributes:
        prompt: Token ids, at least one.
        after: Those of the continuation; none where nobody knows.
    """

    prompt: tuple[int, ...]
    after: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationsRequest:
    """What is generated.

    Attributes:
        params: Temperature, filters, seed.
        samples: How many continuations.
        length: How many tokens each.
        match: Which setting to look for, so that the entropy of what is drawn from equals the
            text's log loss; None for none.
    """

    params: SamplingParams
    samples: int = 64
    length: int = 256
    match: Knob | None = None

    def __post_init__(self) -> None:
        if self.params.greedy:
            raise InvalidInput(
                "Greedy continuations have no entropy.", "Give a --temperature above 0."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """Means at some steps of continuations, in nats a token, with intervals of 95 % over rows.

    Attributes:
        begin: The first step, from 0.
        end: One behind the last.
        entropy: Of the model's own distribution.
        sampling_entropy: Of the one that was drawn from.
        surprisal: -log of the model's own probability of what was drawn.
        text_nll: The text's log loss at these steps; None without text.
        entce: ``sampling_entropy`` less ``text_nll``.
    """

    begin: int
    end: int
    entropy: float
    entropy_interval: tuple[float, float] | None
    sampling_entropy: float
    sampling_entropy_interval: tuple[float, float] | None
    surprisal: float
    surprisal_interval: tuple[float, float] | None
    text_nll: float | None
    text_nll_interval: tuple[float, float] | None
    entce: float | None
    entce_interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A setting at which what is drawn from is as uncertain as the text is surprising.

    Attributes:
        setting: Which.
        value: Its value; None where none between ``low`` and ``high`` does it.
        low: Where it was looked for.
        high: And to where.
        evaluations: How often all continuations were drawn.
    """

    setting: Knob
    value: float | None
    low: float
    high: float
    evaluations: int

    @property
    def flags(self) -> str | None:
        """What to give to ``generate``."""
        if self.value is None:
            return None
        return f"--{self.setting.replace('_', '-')} {self.value:.3g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationsAnswer:
    """What came of it.

    Attributes:
        request: What was asked; with the setting that was found.
        prompts: How many prompts there were.
        texts: How many texts the log loss is of.
        blocks: By 64 steps.
        overall: All steps.
        match: The setting that was looked for.
        model: Where the model is from, as `provenance` tells it.
    """

    request: GenerationsRequest
    prompts: int
    texts: int
    blocks: tuple[Depth, ...]
    overall: Depth
    match: Match | None
    model: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        match = self.match
        return {
            "samples": self.request.samples,
            "length": self.request.length,
            "prompts": self.prompts,
            "texts": self.texts,
            "blocks": [asdict(each) for each in self.blocks],
            "overall": asdict(self.overall),
            "match": None if match is None else {**asdict(match), "flags": match.flags},
            "seed": self.request.params.seed,
            **self.model,
            "sampling": settings_record(self.request.params),
        }


def cut_text(
    model: LanguageModel, parts: Iterable[str], *, prompt_tokens: int, length: int, most: int
) -> list[Continued]:
    """Cut a text into prompts and what follows them, the first ``most`` that there are.

    Args:
        model: The model.
        parts: The text; what is not needed is not read.
        prompt_tokens: How long a prompt is; with 0 it is BOS alone.
        length: How long a continuation is.
        most: How many.

    Raises:
        InvalidInput: the text is too short for one, or there is no BOS where it is needed.
    """
    from llmcli.tokenization.large_text import encode_pieces

    begin = _beginning(model, needed=not prompt_tokens)
    size = prompt_tokens + length
    held: list[int] = []
    found: list[Continued] = []
    for piece in encode_pieces(model.tokenizer, parts):
        held += piece.ids
        while len(held) >= size and len(found) < most:
            prompt, after = held[:prompt_tokens], held[prompt_tokens:size]
            found.append(Continued(prompt=(*begin, *prompt), after=tuple(after)))
            held = held[size:]
        if len(found) == most:
            return found
    if not found:
        raise InvalidInput(
            f"The text has {len(held):,} tokens; a prompt and what follows it take {size:,}.",
            "Give a longer text, a smaller --length or fewer --prompt-tokens.",
        )
    return found


def read_prompts(
    model: LanguageModel, records: Iterable[Record], *, after_field: str
) -> Iterator[Continued]:
    """The prompts of records, with what follows them where a record says it.

    Raises:
        InvalidInput: a record has no prompt.
    """
    from llmcli.scoring.texts import split_pair

    begin = _beginning(model)
    for record in records:
        if record.error is not None:
            raise record.error
        after = record.fields.get(after_field)
        if isinstance(after, str) and after:
            prompt, rest = split_pair(model.tokenizer, record.text, after)
        else:
            prompt, rest = model.tokenizer.ids(record.text), []
        if not (prompt or begin):
            raise InvalidInput(f"{record.place} has an empty prompt.", "Give it some text.")
        yield Continued(prompt=(*begin, *prompt), after=tuple(rest))


def from_nothing(model: LanguageModel) -> list[Continued]:
    """BOS alone.

    Raises:
        InvalidInput: the tokenizer has none.
    """
    return [Continued(prompt=_beginning(model, needed=True))]


def _beginning(model: LanguageModel, *, needed: bool = False) -> tuple[int, ...]:
    tokenizer = model.tokenizer
    bos = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    if not needed and not tokenizer.adds_bos:
        return ()
    if bos is None:
        raise InvalidInput(
            "The model's tokenizer has neither a BOS nor an end-of-text token.",
            "Give a text, and --prompt-tokens above 0.",
        )
    return (bos,)


def calibrate_generations(
    model: LanguageModel,
    prompts: Sequence[Continued],
    request: GenerationsRequest,
    *,
    on_tokens: Callable[[int], None] = lambda count: None,
) -> GenerationsAnswer:
    """Draw continuations, and compare their entropy with the log loss of the text.

    Args:
        model: The model.
        prompts: At least one.
        request: What is generated.
        on_tokens: Told how many tokens are drawn, over all rounds.

    Raises:
        InvalidInput: a prompt leaves no room in the context, or there is nothing to match.
        NumericalError: the model's logits are NaN or infinite.
    """
    from llmcli.scoring.generations import Mean, text_losses
    from llmcli.scoring.likelihood import Likelihood

    _check(model, prompts, request)
    texts = [(each.prompt, each.after) for each in prompts if each.after]
    losses = None
    if texts:
        losses = text_losses(Likelihood(model.decoder()), texts, steps=request.length)
    draws = _Draws(model, prompts, request, on_tokens)
    match, found = None, None
    if request.match is not None and losses is not None:
        match, found = _matched(draws, request, request.match, Mean.of(losses).value)
        if match.value is not None:
            params = _with(request.params, request.match, match.value)
            request = replace(request, params=params)
    found = found or draws(request.params)
    return GenerationsAnswer(
        request=request,
        prompts=len(prompts),
        texts=len(texts),
        blocks=tuple(_blocks(found, losses, request.length)),
        overall=_depth(found, losses, 0, request.length),
        match=match,
        model=provenance(model),
    )


def _check(model: LanguageModel, prompts: Sequence[Continued], request: GenerationsRequest) -> None:
    """Raise InvalidInput for what cannot be drawn, or not be matched."""
    longest = max(len(each.prompt) for each in prompts)
    if longest + request.length > model.n_positions:
        raise InvalidInput(
            f"A prompt of {longest} tokens and {request.length} more do not fit into the context "
            f"of {model.n_positions}.",
            "Give a smaller --length, or shorter prompts.",
        )
    if request.match is not None and not any(each.after for each in prompts):
        raise InvalidInput(
            "There is no text whose log loss could be matched.", "Give a text with -i."
        )


class _Draws:
    """Draws continuations of the same prompts, with one setting after another.

    Attributes:
        rounds: How often it has drawn.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Continued],
        request: GenerationsRequest,
        on_tokens: Callable[[int], None],
    ) -> None:
        self.rounds = 0
        self._decoder = model.decoder()
        self._prompts = [each.prompt for each in prompts]
        self._request = request
        self._on_tokens = on_tokens
        self._done = 0

    def __call__(self, params: SamplingParams) -> Continuations:
        from llmcli.scoring.generations import continuations

        before = self._done

        def tell(count: int) -> None:
            self._done = before + count
            self._on_tokens(self._done)

        self.rounds += 1
        return continuations(
            self._decoder,
            self._prompts,
            params,
            steps=self._request.length,
            samples=self._request.samples,
            on_tokens=tell,
        )


def _matched(
    draws: _Draws, request: GenerationsRequest, setting: Knob, wanted: float
) -> tuple[Match, Continuations | None]:
    """Find the value of a setting at which the sampling entropy is as wanted, in nats.

    Returns:
        What was found, and what was drawn with it; None where no value is right.
    """
    from llmcli.scoring.generations import Mean, solve

    tried: dict[float, Continuations] = {}
    low, high = _RANGES[setting]

    def difference(value: float) -> float:
        value = _rounded(value)
        if value not in tried:
            tried[value] = draws(_with(request.params, setting, value))
        return Mean.of(tried[value].sampling_entropy).value - wanted

    root = solve(difference, low, high, close=_CLOSE)
    value = None if root is None else _rounded(root)
    match = Match(setting=setting, value=value, low=low, high=high, evaluations=draws.rounds)
    return match, None if value is None else tried[value]


def _rounded(value: float) -> float:
    """A setting as the flags say it, so that they bring back what was measured."""
    return float(f"{value:.3g}")


def _with(params: SamplingParams, setting: Knob, value: float) -> SamplingParams:
    changed: dict[str, Any] = {setting: value}
    return replace(params, **changed)


def _blocks(found: Continuations, losses: Any, length: int) -> Iterator[Depth]:
    from llmcli.scoring.generations import BLOCK

    for begin in range(0, length, BLOCK):
        yield _depth(found, losses, begin, min(begin + BLOCK, length))


def _depth(found: Continuations, losses: Any, begin: int, end: int) -> Depth:
    from llmcli.scoring.generations import Mean

    steps = (slice(None), slice(begin, end))
    entropy, sampled, surprisal = (
        Mean.of(each[steps]) for each in (found.entropy, found.sampling_entropy, found.surprisal)
    )
    text = None if losses is None else Mean.of(losses[steps])
    if text is not None and math.isnan(text.value):
        text = None  # all texts end before
    gap = None if text is None else sampled - text
    return Depth(
        begin=begin,
        end=end,
        entropy=entropy.value,
        entropy_interval=entropy.interval,
        sampling_entropy=sampled.value,
        sampling_entropy_interval=sampled.interval,
        surprisal=surprisal.value,
        surprisal_interval=surprisal.interval,
        text_nll=_value(text),
        text_nll_interval=None if text is None else text.interval,
        entce=_value(gap),
        entce_interval=None if gap is None else gap.interval,
    )


def _value(mean: Mean | None) -> float | None:
    return None if mean is None else mean.value

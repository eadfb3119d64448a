"""Two models on the same text, in one pass over it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import tee

import numpy as np
import numpy.typing as npt

from llmcli.engine.decoder import Floats, ScoringDecoder
from llmcli.scoring.likelihood import Likelihood
from llmcli.scoring.states import ROWS_SLICE
from llmcli.scoring.statistics import Blocks, bootstrap_interval, bounded_exp
from llmcli.scoring.texts import TextScorer
from llmcli.scoring.token_scores import TokenScores, best_tokens, join, log_softmax
from llmcli.scoring.windows import Window
from llmcli.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How a second model does against a first; differences are second minus first.

    Attributes:
        nll: Difference of the texts' negative log-likelihoods, nats.
        per: What the mean and its interval are per: a token, or, where the two do not share a
            tokenizer, a byte.
        mean: Mean difference in nats; below 0 the second model is the better one.
        interval: Its 95 % interval by a paired block bootstrap; None for a short text.
        kl_divergence: Mean KL divergence of the second's distributions from the first's in
            nats; None without a shared tokenizer, like the next.
        same_top: Share of positions at which both hold the same token most likely.
    """

    nll: float
    per: str
    mean: float
    interval: tuple[float, float] | None
    kl_divergence: float | None = None
    same_top: float | None = None


class PairLikelihood(Likelihood):
    """Scores windows with two models that share their tokens.

    Args:
        first: The first model.
        second: The second.
        batch_size: As for Likelihood.
        top: How many tokens of each to list at each position; None where likelihoods alone count.
    """

    def __init__(
        self,
        first: ScoringDecoder,
        second: ScoringDecoder,
        *,
        batch_size: int | None = None,
        top: int | None = None,
    ) -> None:
        super().__init__(first, batch_size=batch_size)
        self._source = _Pair(first, second)
        self._second = second
        self._listed = top

    def _ask(self, states: Floats, targets: Sequence[int]) -> TokenScores:
        size = self._decoder.state_size
        wanted = np.asarray(targets, dtype=np.int64)
        parts = []
        for begin in range(0, len(states), ROWS_SLICE):
            piece = states[begin : begin + ROWS_SLICE]
            ours = self._decoder.logits(np.ascontiguousarray(piece[:, :size]))
            theirs = self._second.logits(np.ascontiguousarray(piece[:, size:]))
            parts.append(_compare(ours, theirs, wanted[begin : begin + ROWS_SLICE], self._listed))
        return join(parts)


class _Pair:
    """Two decoders as one source of states, which are those of both side by side."""

    def __init__(self, first: ScoringDecoder, second: ScoringDecoder) -> None:
        self._both = (first, second)
        self._slots: dict[int, list[int]] = {}
        self._next = 0

    @property
    def state_size(self) -> int:
        return sum(each.state_size for each in self._both)

    def open(self) -> int:
        slot, self._next = self._next, self._next + 1
        self._slots[slot] = [each.open() for each in self._both]
        return slot

    def close(self, slot: int) -> None:
        for each, own in zip(self._both, self._slots.pop(slot), strict=True):
            each.close(own)

    def truncate(self, slot: int, length: int) -> None:
        for each, own in zip(self._both, self._slots[slot], strict=True):
            each.truncate(own, length)

    def copy(self, source: int, target: int, length: int) -> int:
        slots = zip(self._both, self._slots[source], self._slots[target], strict=True)
        held = min(each.copy(ours, new, length) for each, ours, new in slots)
        self.truncate(target, held)
        return held

    def hidden(
        self,
        texts: Sequence[tuple[int, Sequence[int]]],
        *,
        prompt: bool = True,
        every: bool = True,
    ) -> Floats:
        found = [
            each.hidden(
                [(self._slots[slot][index], ids) for slot, ids in texts],
                prompt=prompt,
                every=every,
            )
            for index, each in enumerate(self._both)
        ]
        return np.concatenate(found, axis=1)


def _compare(
    ours: Floats, theirs: Floats, targets: npt.NDArray[np.int64], top: int | None
) -> TokenScores:
    """Both models' scores of some positions; logits are [positions, vocab]."""
    first, second = log_softmax(ours), log_softmax(theirs)
    rows = np.arange(len(targets))
    with np.errstate(invalid="ignore"):
        # A token that neither allows (-inf - -inf) adds nothing.
        gap = np.nan_to_num(first - second, nan=0.0, posinf=np.inf, neginf=-np.inf)
        gap *= np.exp(first)
    seen = () if top is None else _seen(first, targets, top)
    ranks, entropies, likely = zip(*seen, strict=True) if seen else ((),) * 3
    return TokenScores(
        ranks=ranks,
        entropies=entropies,
        top=likely,
        other_seen=() if top is None else _seen(second, targets, top),
        logprobs=first[rows, targets].tolist(),
        other=second[rows, targets].tolist(),
        divergences=gap.sum(axis=1, dtype=np.float64).tolist(),
        agreements=(first.argmax(axis=1) == second.argmax(axis=1)).tolist(),
    )


def _seen(
    logprobs: Floats, targets: npt.NDArray[np.int64], top: int
) -> list[tuple[int, float, list[tuple[int, float]]]]:
    """For each position: the target's rank, the entropy, the most likely tokens."""
    rows = np.arange(len(targets))
    greater = (logprobs > logprobs[rows, targets][:, None]).sum(axis=1)
    # A token that is not allowed (-inf) adds nothing.
    terms = np.where(np.isneginf(logprobs), 0.0, logprobs) * np.exp(logprobs)
    entropies = -terms.sum(axis=1, dtype=np.float64)
    best = best_tokens(logprobs, top)
    return list(zip((greater + 1).tolist(), entropies.tolist(), best, strict=True))


@dataclass(slots=True)
class PairTally:
    """Adds up what PairLikelihood finds; ``on_window`` of TextScorer."""

    blocks: Blocks = field(default_factory=lambda: Blocks(3))
    difference: float = 0.0
    weight: float = 0.0
    divergence: float = 0.0
    agreements: int = 0
    positions: int = 0

    def add(self, window: Window, scores: TokenScores) -> None:
        """Add a window's tokens."""
        for own, other in zip(scores.logprobs, scores.other, strict=True):
            self.difference += window.weight * (own - other)
            self.weight += window.weight
            self.blocks.add(window.weight * (own - other), -window.weight * other, window.weight)
        self.divergence += math.fsum(scores.divergences)
        self.agreements += sum(scores.agreements)
        self.positions += window.scored

    def comparison(self) -> Comparison:
        """The figures; there must be a token."""
        return Comparison(
            nll=self.difference,
            per="token",
            mean=self.difference / self.weight,
            interval=bootstrap_interval(self.blocks.rows()),
            kl_divergence=self.divergence / self.positions,
            same_top=self.agreements / self.positions,
        )

    def second_interval(self) -> tuple[float, float] | None:
        """The interval of the second model's own perplexity."""
        bounds = bootstrap_interval(row[1:] for row in self.blocks.rows())
        return bounds and (bounded_exp(bounds[0]), bounded_exp(bounds[1]))


def compare_by_bytes(
    first: TextScorer,
    second: TextScorer,
    parts: Iterable[str],
    *,
    on_window: Callable[[int, Window, TokenScores], None] = lambda which, window, scores: None,
) -> Comparison | None:
    """Two models with tokenizers of their own on one text, which is read once.

    Both texts of tokens are cut where a token of each ends at the same byte; the stretches in
    between are what is paired. Conventions must score every token. ``on_window`` is told of each
    window of the first (0) and of the second (1).

    Returns:
        The comparison, per byte; None for an empty text.
    """
    ours, theirs = tee(parts)
    blocks = Blocks()
    difference, size = 0.0, 0
    for mine, other, length in _stretches(
        _ends(first, ours, partial(on_window, 0)), _ends(second, theirs, partial(on_window, 1))
    ):
        difference += other - mine
        size += length
        blocks.add(other - mine, float(length))
    if not size:
        return None
    return Comparison(
        nll=difference,
        per="byte",
        mean=difference / size,
        interval=bootstrap_interval(blocks.rows()),
    )


def _ends(
    scorer: TextScorer, parts: Iterable[str], on_window: Callable[[Window, TokenScores], None]
) -> Iterator[tuple[float, float]]:
    """For each token: the byte at which it ends, and its negative log-likelihood."""
    end = 0
    for _, window, scores in scorer.windows([(None, parts)]):
        on_window(window, scores)
        ids = window.tokens[window.first :]
        for index, (token_id, logprob) in enumerate(zip(ids, scores.logprobs, strict=True)):
            # A BOS that is scored has no byte of the text.
            if window.position + index >= 0:
                end += _length(scorer.tokenizer, token_id, first=end == 0)
            yield end, -logprob


def _length(tokenizer: Tokenizer, token_id: int, *, first: bool) -> int:
    data = tokenizer.token_bytes(token_id)
    if first and tokenizer.spelling.prefix_space:
        data = data.removeprefix(b" ")
    return len(data)


def _stretches(
    first: Iterator[tuple[float, float]], second: Iterator[tuple[float, float]]
) -> Iterator[tuple[float, float, int]]:
    """Sums of both between the bytes at which tokens of both end, and the bytes in between."""
    over = (math.inf, 0.0)
    ours, theirs = next(first, over), next(second, over)
    begin, end, mine, other = 0.0, 0.0, 0.0, 0.0
    while (end_of_next := min(ours[0], theirs[0])) < math.inf:
        end = end_of_next
        both = ours[0] == theirs[0]
        if ours[0] == end:
            mine, ours = mine + ours[1], next(first, over)
        if both or theirs[0] == end:
            other, theirs = other + theirs[1], next(second, over)
        if both:
            yield mine, other, round(end - begin)
            begin, mine, other = end, 0.0, 0.0
    if end > begin:
        yield mine, other, round(end - begin)

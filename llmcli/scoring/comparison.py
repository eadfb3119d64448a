"""Two models on the same text, in one pass over it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import tee

import torch
from torch import Tensor

from llmcli.scoring.likelihood import Likelihood
from llmcli.scoring.output_layer import TokenScores, join
from llmcli.scoring.readers import Reader
from llmcli.scoring.statistics import Blocks, bootstrap_interval, bounded_exp
from llmcli.scoring.texts import TextScorer
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
        first: Runs the first model.
        second: Runs the second.
        device: Where both want their tokens.
        batch_size: As for Likelihood.
    """

    def __init__(
        self, first: Reader, second: Reader, *, device: str = "cpu", batch_size: int | None = None
    ) -> None:
        super().__init__(first, device=device, batch_size=batch_size)
        self._second = second

    def _ask(self, ids: Tensor, rows: Tensor, targets: Tensor) -> TokenScores:
        parts = []
        begin = 0
        for ours, theirs in _side_by_side(
            self._reader.logits(ids, rows), self._second.logits(ids, rows)
        ):
            end = begin + len(ours)
            parts.append(_compare(ours, theirs, targets[begin:end]))
            begin = end
        return join(parts)


def _compare(ours: Tensor, theirs: Tensor, targets: Tensor) -> TokenScores:
    """Both models' scores of some positions; logits are [positions, vocab]."""
    first, second = torch.log_softmax(ours, 1), torch.log_softmax(theirs, 1)
    # A token that neither allows (-inf - -inf) adds nothing.
    gap = torch.nan_to_num(first - second, nan=0.0)
    return TokenScores(
        logprobs=first.gather(1, targets[:, None])[:, 0].tolist(),
        other=second.gather(1, targets[:, None])[:, 0].tolist(),
        divergences=(first.exp() * gap).sum(1).tolist(),
        agreements=(first.argmax(1) == second.argmax(1)).tolist(),
    )


def _side_by_side(
    first: Iterator[Tensor], second: Iterator[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Slices of the same rows from two streams that may be cut differently."""
    ours, theirs = next(first, None), next(second, None)
    while ours is not None and theirs is not None:
        size = min(len(ours), len(theirs))
        yield ours[:size], theirs[:size]
        ours = ours[size:] if len(ours) > size else next(first, None)
        theirs = theirs[size:] if len(theirs) > size else next(second, None)


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
    first: TextScorer, second: TextScorer, parts: Iterable[str]
) -> Comparison | None:
    """Two models with tokenizers of their own on one text, which is read once.

    Both texts of tokens are cut where a token of each ends at the same byte; the stretches in
    between are what is paired. Conventions must score every token.

    Returns:
        The comparison, per byte; None for an empty text.
    """
    ours, theirs = tee(parts)
    blocks = Blocks()
    difference, size = 0.0, 0
    for mine, other, length in _stretches(_ends(first, ours), _ends(second, theirs)):
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


def _ends(scorer: TextScorer, parts: Iterable[str]) -> Iterator[tuple[float, float]]:
    """For each token: the byte at which it ends, and its negative log-likelihood."""
    end = 0
    for _, window, scores in scorer.windows([(None, parts)]):
        ids = window.tokens[window.first :]
        for token_id, logprob in zip(ids, scores.logprobs, strict=True):
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

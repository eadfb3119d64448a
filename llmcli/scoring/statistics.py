"""From token log-probabilities to named numbers, with an interval (no torch).

Everything is in nats unless its name says bits. Sums are kept in double precision; what is held
of a text does not grow with it.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

Normalize = Literal["none", "tokens", "bytes", "pmi"]

BLOCK_TOKENS = 128
MAX_BLOCKS = 8192
MIN_BLOCKS = 10
RESAMPLES = 1000
_SEED = 20_240_501


class Blocks:
    """Sums over consecutive blocks of tokens, for the block bootstrap.

    Tokens of a text are not independent of their neighbours, so whole blocks are drawn. A block
    has 128 tokens; when there are 8,192 of them, neighbours are merged and blocks are twice as
    long from then on, so that memory does not grow with the text.

    Args:
        columns: How many numbers are summed side by side (the last is the token's weight).
        size: Tokens in a block.
    """

    def __init__(self, columns: int = 2, *, size: int = BLOCK_TOKENS) -> None:
        self.size = size
        self._columns = columns
        self._done = array("d")
        self._open = [0.0] * columns
        self._count = 0

    @property
    def room(self) -> int:
        """How many tokens the block at the end still takes, at least 1."""
        return self.size - self._count

    def add(self, *values: float, tokens: int = 1) -> None:
        """Add the sums of consecutive ``tokens``: of one, or of at most ``room``."""
        for index, value in enumerate(values):
            self._open[index] += value
        self._count += tokens
        if self._count == self.size:
            self._close()

    def __len__(self) -> int:
        """How many blocks there are, an unfinished last one counted."""
        return len(self._done) // self._columns + (1 if self._count else 0)

    def rows(self) -> Iterator[tuple[float, ...]]:
        """The blocks' sums, in order."""
        width = self._columns
        for begin in range(0, len(self._done), width):
            yield tuple(self._done[begin : begin + width])
        if self._count:
            yield tuple(self._open)

    def _close(self) -> None:
        self._done.extend(self._open)
        self._open = [0.0] * self._columns
        self._count = 0
        if len(self._done) == MAX_BLOCKS * self._columns:
            merged = array("d")
            for begin in range(0, len(self._done), 2 * self._columns):
                first = self._done[begin : begin + self._columns]
                second = self._done[begin + self._columns : begin + 2 * self._columns]
                merged.extend(a + b for a, b in zip(first, second, strict=True))
            self._done = merged
            self.size *= 2


def bootstrap_interval(
    rows: Iterable[tuple[float, ...]], *, level: float = 0.95, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """A percentile interval of sum(first column) / sum(last column) over resampled rows.

    The block bootstrap with non-overlapping blocks (Carlstein 1986), the ratio estimated anew in
    each resample. The random numbers are always the same, so a report can be repeated.

    Args:
        rows: Sums of each block.
        level: How much of the resampled ratios lies inside.
        resamples: How many resamples are drawn.

    Returns:
        Low and high end, or None for fewer than 10 blocks: too few to resample.
    """
    import numpy as np

    table = np.array(list(rows), dtype=np.float64)
    if len(table) < MIN_BLOCKS:
        return None
    random = np.random.Generator(np.random.PCG64(_SEED))
    ratios = np.empty(resamples)
    for index in range(resamples):
        drawn = np.bincount(random.integers(0, len(table), size=len(table)), minlength=len(table))
        ratios[index] = (drawn @ table[:, 0]) / (drawn @ table[:, -1])
    tail = (1 - level) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(low), float(high)


@dataclass(slots=True)
class WordCount:
    """Words and bytes of a text that arrives in pieces.

    Attributes:
        words: Stretches without white space, as ``len(text.split())`` counts them.
        gaps: Stretches of white space, so that ``gaps + 1`` is ``len(re.split(r"\\s+", text))``,
            lm-evaluation-harness's number of words (it counts an empty word at either end).
        bytes: Bytes of UTF-8.
    """

    words: int = 0
    gaps: int = 0
    bytes: int = 0
    _last_is_space: bool | None = None

    def add(self, text: str) -> None:
        """Count the next piece of the text."""
        if not text:
            return
        starts_in_space, ends_in_space = text[0].isspace(), text[-1].isspace()
        words = len(text.split())
        gaps = words - 1 + starts_in_space + ends_in_space if words else 1
        if self._last_is_space is False and not starts_in_space:
            words -= 1
        if self._last_is_space is True and starts_in_space:
            gaps -= 1
        self.words += words
        self.gaps += gaps
        self.bytes += len(text.encode("utf-8"))
        self._last_is_space = ends_in_space

    def merge(self, other: WordCount) -> None:
        """Add the counts of another text."""
        self.words += other.words
        self.gaps += other.gaps
        self.bytes += other.bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a text, or several, came to.

    Attributes:
        tokens: Tokens scored (hf: by that recipe's count).
        words: Words, by the convention's definition.
        bytes: Bytes of UTF-8.
        nll: Negative log-likelihood, nats, summed over the tokens.
        complete: Whether every token of the text was scored; only then do the figures per word
            and per byte mean anything.
        pseudo: Whether each token was given those around it, those after it too.
        interval: 95 % interval of the token perplexity, None where the text is too short.
        block_tokens: Tokens in a block of the bootstrap.
    """

    tokens: int
    words: int
    bytes: int
    nll: float
    complete: bool = True
    pseudo: bool = False
    interval: tuple[float, float] | None = None
    block_tokens: int = BLOCK_TOKENS

    @property
    def nll_per_token(self) -> float:
        """Mean negative log-likelihood in nats."""
        return self.nll / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(nll / tokens)."""
        return bounded_exp(self.nll_per_token)

    @property
    def word_perplexity(self) -> float | None:
        """exp(nll / words), as lm-evaluation-harness defines it; None without words."""
        return bounded_exp(self.nll / self.words) if self.complete and self.words else None

    @property
    def byte_perplexity(self) -> float | None:
        """exp(nll / bytes), as lm-evaluation-harness defines it."""
        return bounded_exp(self.nll / self.bytes) if self.complete and self.bytes else None

    @property
    def bits_per_byte(self) -> float | None:
        """nll / bytes / ln 2, as lm-evaluation-harness defines it."""
        return self.nll / self.bytes / math.log(2) if self.complete and self.bytes else None


def bounded_exp(value: float) -> float:
    """exp(value), the largest finite double where that would overflow."""
    try:
        return math.exp(value)
    except OverflowError:
        return 1.7976931348623157e308


def normalized(
    logprob: float, normalize: Normalize, *, tokens: int, size: int, unconditional: float = 0.0
) -> float:
    """A continuation's log-likelihood made comparable with that of others.

    Args:
        logprob: Log-likelihood given the prompt, nats.
        normalize: As it is, per token, per byte, or less the unconditional one (pointwise
            mutual information; Holtzman et al. 2021).
        tokens: Its tokens.
        size: Its bytes.
        unconditional: Its log-likelihood without the prompt, nats.
    """
    if normalize == "tokens":
        return logprob / tokens
    if normalize == "bytes":
        return logprob / size
    return logprob - unconditional if normalize == "pmi" else logprob


@dataclass(slots=True)
class Tally:
    """Adds up token log-probabilities, of one text or of several.

    Args:
        complete: Whether the convention scores every token (see Score).
        count_gaps: Count words as lm-evaluation-harness does.
        pseudo: Whether the log-probabilities are a masked model's (see Score).
    """

    complete: bool = True
    count_gaps: bool = False
    pseudo: bool = False
    nll: float = 0.0
    weight: float = 0.0
    counts: WordCount = field(default_factory=WordCount)
    texts: int = 0
    blocks: Blocks = field(default_factory=Blocks)

    def add(self, logprobs: Sequence[float], weight: float = 1.0) -> None:
        """Add the log-probabilities (nats) of consecutive tokens, each counting ``weight``."""
        begin = 0
        while begin < len(logprobs):
            # A block's worth at a time: a loop over tokens costs more than a small model does.
            part = logprobs[begin : begin + self.blocks.room]
            nll, counted = -weight * math.fsum(part), weight * len(part)
            self.nll += nll
            self.weight += counted
            self.blocks.add(nll, counted, tokens=len(part))
            begin += len(part)

    def add_text(self, counts: WordCount) -> None:
        """Add a finished text's words and bytes."""
        self.counts.merge(counts)
        self.texts += 1

    def score(self, *, interval: bool = True) -> Score:
        """The figures so far; ``interval`` False spares the bootstrap."""
        bounds = bootstrap_interval(self.blocks.rows()) if interval else None
        return Score(
            tokens=round(self.weight),
            words=self.counts.gaps + self.texts if self.count_gaps else self.counts.words,
            bytes=self.counts.bytes,
            nll=self.nll,
            complete=self.complete,
            pseudo=self.pseudo,
            interval=bounds and (bounded_exp(bounds[0]), bounded_exp(bounds[1])),
            block_tokens=self.blocks.size,
        )


@dataclass(slots=True)
class Means:
    """Means over rows, each row counting alike."""

    rows: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, score: Score) -> None:
        self.rows += 1
        for name in ("perplexity", "nll_per_token", "bits_per_byte"):
            value = getattr(score, name)
            if value is not None:
                named = f"pseudo_{name}" if score.pseudo else name
                self.sums[named] = self.sums.get(named, 0.0) + value

    def record(self) -> dict[str, float]:
        return {name: value / self.rows for name, value in self.sums.items()}

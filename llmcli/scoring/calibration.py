"""Whether a model's probabilities are right: calibration of tokens, in one pass.

A token's confidence is the probability of the most likely token, and it is correct if that token
came. What is kept are sums: by bins of confidence, by blocks of the text, and at a few inverse
temperatures. Nothing grows with the text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcli.scoring.statistics import BLOCK_TOKENS, MAX_BLOCKS, MIN_BLOCKS
from llmcli.scoring.temperature import (
    BETAS,
    COLUMNS,
    CONFIDENCE,
    CORRECT,
    ENTROPY,
    FIRST,
    NLL,
    ONE,
    best_beta,
    beta_interval,
    loss_at,
)

Doubles = npt.NDArray[np.float64]

# Bins of the histogram behind the figures that are not of --bins, about so many; and of those at
# other temperatures.
_FINE = 1 << 16
_NEAR = 1 << 12
RESAMPLES = 1000
SEED = 20_240_501
LEAST_TO_FIT = 200
_LEAST_IN_BIN = 50


# -- sums --------------------------------------------------------------------------------------


class Sums:
    """Sums over tokens, and over blocks of them for the bootstrap.

    Args:
        bins: Bins of confidence that the figures are of.
    """

    def __init__(self, bins: int) -> None:
        self.bins = bins
        self.per_bin = math.ceil(_NEAR / bins)
        per_bin = math.ceil(_FINE / bins)
        self.totals = np.zeros(COLUMNS)
        self.brier = 0.0
        self.tokens = 0
        # By the finest bins of the confidence: how many, summed confidence, how many correct.
        self.fine = np.zeros((bins * per_bin, 3))
        # For each of BETAS by fine bins of the confidence at it: how many, how many correct, and
        # summed confidence at it and its two neighbours (at the ends, the next two).
        self._near = np.zeros((len(BETAS), bins * self.per_bin, 5))
        # By blocks: of each bin how many, confidence, correct; then each token's totals.
        self.block_tokens = BLOCK_TOKENS
        self._blocks: list[Doubles] = []
        self._open = np.zeros(3 * bins + COLUMNS)
        self._count = 0

    def add(self, numbers: Doubles) -> None:
        """Add consecutive tokens' numbers, [tokens, COLUMNS]."""
        while len(numbers):
            room = self.block_tokens - self._count
            self._add(numbers[:room])
            numbers = numbers[room:]

    def _add(self, numbers: Doubles) -> None:
        confidence, correct = numbers[:, CONFIDENCE], numbers[:, CORRECT]
        confidences = numbers[:, FIRST + 3 :: 4]
        ones = np.ones(len(numbers))
        for index, table in enumerate(self._near):
            first = _first_of_three(index)
            kept = np.column_stack([ones, correct, confidences[:, first : first + 3]])
            np.add.at(table, self._fine_bin(confidences[:, index]), kept)
        columns = [ones, confidence, correct]
        np.add.at(self.fine, _bin(confidence, len(self.fine)), np.column_stack(columns))
        coarse = self._fine_bin(confidence) // self.per_bin
        for index, column in enumerate(columns):
            begin = index * self.bins
            self._open[begin : begin + self.bins] += np.bincount(coarse, column, self.bins)
        total = numbers.sum(axis=0)
        self._open[3 * self.bins :] += total
        self.totals += total
        self.brier += float(((confidence - correct) ** 2).sum())
        self.tokens += len(numbers)
        self._count += len(numbers)
        if self._count == self.block_tokens:
            self._close()

    def _fine_bin(self, confidence: Doubles) -> npt.NDArray[np.int64]:
        return _bin(confidence, self._near.shape[1])

    def _close(self) -> None:
        self._blocks.append(self._open)
        self._open, self._count = np.zeros_like(self._open), 0
        if len(self._blocks) == MAX_BLOCKS:
            pairs = zip(self._blocks[::2], self._blocks[1::2], strict=True)
            self._blocks = [first + second for first, second in pairs]
            self.block_tokens *= 2

    def blocks(self) -> Doubles:
        """[blocks, 3 bins + COLUMNS], an unfinished last one included."""
        rows = [*self._blocks, self._open] if self._count else self._blocks
        return np.array(rows).reshape(-1, 3 * self.bins + COLUMNS)

    @property
    def near(self) -> Doubles:
        """[``per_bin`` for each bin, 3]: the same as `fine` in bins that are less fine."""
        found: Doubles = self._near[ONE][:, [0, 3, 1]]
        return found

    def table(self) -> Doubles:
        """[bins, 3]: the same by the bins that the figures are of."""
        found: Doubles = self.near.reshape(self.bins, self.per_bin, 3).sum(axis=1)
        return found

    def table_at(self, beta: float) -> Doubles:
        """[bins, 3]: the same at another inverse temperature.

        From the fine bins at the nearest of BETAS: their mean confidence at ``beta`` comes from
        those at three of BETAS, and says which bin all their tokens are in.
        """
        nearest = int(np.argmin(np.abs(np.array(BETAS) - beta)))
        first = _first_of_three(nearest)
        used = self._near[nearest][self._near[nearest][:, 0] > 0]
        nodes = BETAS[first : first + 3]
        shares = [
            math.prod((beta - other) / (node - other) for other in nodes if other != node)
            for node in nodes
        ]
        confidence = used[:, 2:] @ np.array(shares)
        means = np.clip(confidence / used[:, 0], 0, 1)
        found = np.zeros((self.bins, 3))
        coarse = self._fine_bin(means) // self.per_bin
        np.add.at(found, coarse, np.column_stack([used[:, 0], confidence, used[:, 1]]))
        return found


def _bin(confidence: Doubles, size: int) -> npt.NDArray[np.int64]:
    """Which of bins of equal width, which are (lo, hi]; 0 is in the first."""
    return np.clip(np.ceil(confidence * size).astype(np.int64) - 1, 0, size - 1)


def _first_of_three(index: int) -> int:
    """The first of the three of BETAS around one of them."""
    return min(max(index - 1, 0), len(BETAS) - 3)


# -- figures of bins ---------------------------------------------------------------------------


def expected_calibration_error(table: Doubles) -> float:
    """ECE: sum over bins of |confidence - correct| / tokens (Naeini et al. 2015).

    Args:
        table: [bins, 3]: how many, summed confidence, how many correct.
    """
    return float(np.abs(table[:, 1] - table[:, 2]).sum() / table[:, 0].sum())


def adaptive_error(fine: Doubles, bins: int) -> float:
    """ACE: the mean over bins of equal mass of |confidence - accuracy| (Nixon et al. 2019).

    From a histogram: a fine bin that lies across an edge is shared out by its mass.

    Args:
        fine: [fine bins, 3], ascending in confidence: how many, confidence, correct.
        bins: How many bins of equal mass.
    """
    edges = np.linspace(0, fine[:, 0].sum(), bins + 1)
    reached = np.concatenate([[0.0], np.cumsum(fine[:, 0])])
    sums = [
        np.interp(edges, reached, np.concatenate([[0.0], np.cumsum(fine[:, column])]))
        for column in (1, 2)
    ]
    gaps = np.abs(np.diff(sums[0]) - np.diff(sums[1])) / np.diff(edges)
    return float(gaps.mean())


def smooth_error(fine: Doubles) -> tuple[float, float]:
    """Smooth ECE and its kernel's width (Blasiok & Nakkiran 2023).

    The residuals (correct - confidence) are smoothed by a Gaussian that is reflected at 0 and 1;
    the width is the one that equals the error at it. From a histogram.

    Args:
        fine: [fine bins, 3]: how many, confidence, correct.
    """
    size = len(fine)
    residual = (fine[:, 2] - fine[:, 1]) / fine[:, 0].sum()
    spectrum = np.fft.rfft(np.concatenate([residual, residual[::-1]]))
    frequencies = np.arange(len(spectrum)) / 2

    def error(width: float) -> float:
        damped = spectrum * np.exp(-2 * (math.pi * width * frequencies) ** 2)
        return float(np.abs(np.fft.irfft(damped, 2 * size)[:size]).sum())

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if error(middle) > middle else (low, middle)
    return error(high), high


def wilson(successes: float, count: float, *, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson 1927)."""
    share, square = successes / count, z * z / count
    centre = (share + square / 2) / (1 + square)
    spread = z * math.sqrt(share * (1 - share) / count + square / 4 / count) / (1 + square)
    return max(0.0, centre - spread), min(1.0, centre + spread)


def noise_floor(sums: Sums) -> tuple[float, float]:
    """The ECE that a perfectly calibrated model would show by chance: mean and 95 % quantile.

    Outcomes are drawn anew from the confidences, in fine bins.
    """
    used = sums.near[:, 0] > 0
    counts = sums.near[used, 0].astype(np.int64)
    confidence = sums.near[used, 1]
    chance = np.clip(confidence / counts, 0, 1)
    coarse = np.nonzero(used)[0] // sums.per_bin
    starts = np.unique(coarse, return_index=True)[1]
    random = np.random.Generator(np.random.PCG64(SEED))
    drawn = random.binomial(counts, chance, size=(RESAMPLES, len(counts)))
    gaps = np.add.reduceat(drawn - confidence, starts, axis=1)
    errors = np.abs(gaps).sum(axis=1) / counts.sum()
    return float(errors.mean()), float(np.quantile(errors, 0.95))


def error_interval(blocks: Doubles, bins: int) -> tuple[float, float] | None:
    """A 95 % interval of the ECE by the block bootstrap; None for fewer than ten blocks."""
    if len(blocks) < MIN_BLOCKS:
        return None
    random = np.random.Generator(np.random.PCG64(SEED))
    errors = []
    for _ in range(RESAMPLES):
        drawn = np.bincount(random.integers(0, len(blocks), len(blocks)), minlength=len(blocks))
        count, confidence, correct = (drawn @ blocks[:, : 3 * bins]).reshape(3, bins)
        errors.append(np.abs(confidence - correct).sum() / count.sum())
    low, high = np.quantile(errors, [0.025, 0.975])
    return float(low), float(high)


# -- all together ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """A bin of confidence: tokens in (low, high], their mean confidence and accuracy."""

    low: float
    high: float
    tokens: int
    confidence: float
    accuracy: float
    accuracy_interval: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How far a model's probabilities are right on a text; docs/calibration.md has the formulas.

    Intervals are of 95 %; None where the text is too short for one. The temperature is fitted on
    one part of the blocks, and ``nll_before`` to ``ece_after`` are of the others.
    """

    tokens: int
    accuracy: float
    confidence: float
    nll: float
    entropy: float
    ece: float
    ece_floor: tuple[float, float]
    ece_interval: tuple[float, float] | None
    ace: float
    smece: float
    smece_width: float
    mce: float | None
    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    within_bins: float
    temperature: float | None
    temperature_interval: tuple[float, float] | None
    nll_before: float | None
    nll_after: float | None
    ece_before: float | None
    ece_after: float | None
    block_tokens: int
    bins: tuple[Bin, ...]


class Calibrator:
    """Adds up tokens' numbers, and makes a `Calibration` of them.

    Args:
        bins: Bins of equal width.
        holdout: The share of the text's blocks that the temperature is not fitted on.
    """

    def __init__(self, *, bins: int = 15, holdout: float = 0.5) -> None:
        self.all = Sums(bins)
        self._parts = (Sums(bins), Sums(bins))
        self._holdout = holdout

    def add(self, numbers: Sequence[Doubles]) -> None:
        """Add consecutive tokens' numbers."""
        table = np.array(numbers).reshape(-1, COLUMNS)
        begin = 0
        while begin < len(table):
            block, inside = divmod(self.all.tokens, BLOCK_TOKENS)
            end = min(len(table), begin + BLOCK_TOKENS - inside)
            held = math.floor((block + 1) * self._holdout) > math.floor(block * self._holdout)
            self.all.add(table[begin:end])
            self._parts[held].add(table[begin:end])
            begin = end

    def result(self) -> Calibration:
        """The figures; there must be a token."""
        sums = self.all
        table = sums.table()
        used = table[table[:, 0] > 0]
        count = sums.tokens
        gaps = np.abs(used[:, 1] - used[:, 2]) / used[:, 0]
        full = used[:, 0] >= _LEAST_IN_BIN
        accuracy = float(sums.totals[CORRECT]) / count
        shares, means = used[:, 0] / count, used[:, 2] / used[:, 0]
        reliability = float((shares * gaps**2).sum())
        resolution = float((shares * (means - accuracy) ** 2).sum())
        uncertainty = accuracy * (1 - accuracy)
        smece, width = smooth_error(sums.near)
        brier = sums.brier / count
        return Calibration(
            tokens=count,
            accuracy=accuracy,
            confidence=float(sums.totals[CONFIDENCE]) / count,
            nll=float(sums.totals[NLL]) / count,
            entropy=float(sums.totals[ENTROPY]) / count,
            ece=expected_calibration_error(table),
            ece_floor=noise_floor(sums),
            ece_interval=error_interval(sums.blocks(), sums.bins),
            ace=adaptive_error(sums.fine, sums.bins),
            smece=smece,
            smece_width=width,
            mce=float(gaps[full].max()) if full.any() else None,
            brier=brier,
            reliability=reliability,
            resolution=resolution,
            uncertainty=uncertainty,
            within_bins=brier - (reliability - resolution + uncertainty),
            block_tokens=sums.block_tokens,
            bins=tuple(_bins(table)),
            **self._temperature(),
        )

    def _temperature(self) -> dict[str, Any]:
        fitted, held = self._parts
        found: dict[str, Any] = dict.fromkeys(
            (
                "temperature",
                "temperature_interval",
                "nll_before",
                "nll_after",
                "ece_before",
                "ece_after",
            )
        )
        enough = fitted.tokens > 0 and self.all.tokens >= LEAST_TO_FIT
        beta = best_beta(fitted.totals) if enough else None
        if beta is None:
            return found
        found["temperature"] = 1 / beta
        bounds = beta_interval(fitted.blocks()[:, 3 * fitted.bins :], beta)
        if bounds is not None and bounds[0] > 0:
            found["temperature_interval"] = (1 / bounds[1], 1 / bounds[0])
        if held.tokens:
            found["nll_before"] = float(held.totals[NLL]) / held.tokens
            found["nll_after"] = loss_at(held.totals, beta) / held.tokens
            found["ece_before"] = expected_calibration_error(held.table())
            found["ece_after"] = expected_calibration_error(held.table_at(beta))
        return found


def _bins(table: Doubles) -> Iterator[Bin]:
    for index, (count, confidence, correct) in enumerate(table.tolist()):
        if count:
            yield Bin(
                low=index / len(table),
                high=(index + 1) / len(table),
                tokens=round(count),
                confidence=confidence / count,
                accuracy=correct / count,
                accuracy_interval=wilson(correct, count),
            )

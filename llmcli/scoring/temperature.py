"""What the logits say of each token at several temperatures, and the best of temperatures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcli.engine.decoder import Floats
from llmcli.scoring.likelihood import Likelihood
from llmcli.scoring.statistics import MIN_BLOCKS
from llmcli.scoring.token_scores import TokenScores, join

Doubles = npt.NDArray[np.float64]

# Inverse temperatures are eighths, so that one exponential serves them all: each is the product
# of two that stand before it (or of the eighth itself and one of them).
_EIGHTHS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 24)
BETAS = tuple(each / 8 for each in _EIGHTHS)
ONE = _EIGHTHS.index(8)
# Columns of a token's numbers; then four for each inverse temperature.
CONFIDENCE, CORRECT, NLL, ENTROPY, FIRST = range(5)
COLUMNS = FIRST + 4 * len(BETAS)
# Rows whose float32 exponentials exist at once: a few megabytes.
_ROWS = 16


def token_numbers(logits: npt.NDArray[Any], targets: Sequence[int]) -> Doubles:
    """What calibration needs of each token, [rows, COLUMNS].

    Columns: confidence, correct, negative log-likelihood, entropy; then, each for all `BETAS` b,
    ``logsumexp(b z) - b z_y`` and its first and second derivative in b (``E_b[z] - z_y``,
    ``Var_b[z]``), and the confidence at b.

    Args:
        logits: Shape [rows, vocab].
        targets: The tokens that came.
    """
    found = np.empty((len(logits), COLUMNS))
    wanted = np.asarray(targets, dtype=np.int64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for begin in range(0, len(logits), _ROWS):
            piece = slice(begin, begin + _ROWS)
            _describe(logits[piece], wanted[piece], found[piece])
    return found


def _describe(logits: npt.NDArray[Any], targets: npt.NDArray[np.int64], found: Doubles) -> None:
    rows = np.arange(len(logits))
    best = logits.argmax(axis=1)
    # A forbidden token (-inf) weighs nothing; a number that is far enough serves for it.
    z = np.maximum(logits - logits[rows, best][:, None], np.asarray(-1e5, logits.dtype))
    own = z[rows, targets].astype(np.float64)
    squares = z * z
    powers = {1: np.exp(z * np.asarray(0.125, z.dtype))}
    found[:, CORRECT] = best == targets
    for index, eighths in enumerate(_EIGHTHS):
        weights = powers[eighths // 2] * powers[eighths - eighths // 2]
        powers[eighths] = weights
        total = weights.sum(axis=1, dtype=np.float64)
        mean = np.einsum("ij,ij->i", weights, z) / total
        square = np.einsum("ij,ij->i", weights, squares) / total
        lost, slope, curve, sure = (found[:, FIRST + 4 * index + each] for each in range(4))
        lost[:] = np.log(total) - BETAS[index] * own
        slope[:] = mean - own
        curve[:] = np.maximum(square - mean * mean, 0)
        sure[:] = 1 / total
        if index == ONE:
            found[:, CONFIDENCE] = sure
            found[:, NLL] = lost
            found[:, ENTROPY] = np.log(total) - mean


class CalibrationLikelihood(Likelihood):
    """Likelihood that also gives each token's numbers for calibration."""

    def _ask(self, states: Floats, targets: Sequence[int]) -> TokenScores:
        parts = []
        for begin in range(0, len(states), _ROWS * 4):
            piece = slice(begin, begin + _ROWS * 4)
            numbers = token_numbers(self._decoder.logits(states[piece]), targets[piece])
            parts.append(TokenScores((-numbers[:, NLL]).tolist(), numbers=list(numbers)))
        return join(parts)


def hermite(x: float, values: Doubles, slopes: Doubles) -> float:
    """Hermite interpolation over the four of `BETAS` nearest to x (divided differences).

    Args:
        x: From the first to the last of `BETAS`.
        values: A function's values at `BETAS`.
        slopes: Its derivatives.
    """
    after = int(np.searchsorted(BETAS, x))
    first = min(max(after - 2, 0), len(BETAS) - 4)
    nodes = np.repeat(np.array(BETAS[first : first + 4]), 2)
    column = np.repeat(values[first : first + 4], 2)
    factors = [float(column[0])]
    for order in range(1, 8):
        below, above = column[:-1], column[1:]
        spread = nodes[order:] - nodes[: len(nodes) - order]
        with np.errstate(invalid="ignore", divide="ignore"):
            column = (above - below) / spread
        if order == 1:
            column[::2] = slopes[first : first + 4]
        factors.append(float(column[0]))
    result = 0.0
    for factor, node in zip(reversed(factors), reversed(nodes.tolist()), strict=True):
        result = result * (x - node) + factor
    return result


def best_beta(totals: Doubles) -> float | None:
    """The inverse temperature with the least NLL; None where it is beyond `BETAS`.

    Args:
        totals: Summed token numbers, [COLUMNS].
    """
    slopes, curves = totals[FIRST + 1 :: 4], totals[FIRST + 2 :: 4]
    if slopes[0] > 0 or slopes[-1] < 0:
        return None
    above = int(np.argmax(slopes >= 0))
    low, high = BETAS[max(above - 1, 0)], BETAS[above]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if hermite(middle, slopes, curves) < 0 else (low, middle)
    return (low + high) / 2


def loss_at(totals: Doubles, beta: float) -> float:
    """The summed NLL at an inverse temperature, nats."""
    return hermite(beta, totals[FIRST::4], totals[FIRST + 1 :: 4])


def beta_interval(rows: Doubles, beta: float) -> tuple[float, float] | None:
    """A 95 % interval of the best inverse temperature; None for fewer than ten blocks.

    By the delta method: the spread of the blocks' slopes at the optimum over the curvature there.

    Args:
        rows: Token numbers summed over blocks, [blocks, COLUMNS].
        beta: The best inverse temperature.
    """
    if len(rows) < MIN_BLOCKS:
        return None
    slopes = np.array([hermite(beta, row[FIRST + 1 :: 4], row[FIRST + 2 :: 4]) for row in rows])
    curvature = float(np.interp(beta, BETAS, rows.sum(axis=0)[FIRST + 2 :: 4]))
    if curvature <= 0:
        return None
    spread = 1.959964 * math.sqrt(len(slopes) * float(slopes.var(ddof=1))) / curvature
    return beta - spread, beta + spread

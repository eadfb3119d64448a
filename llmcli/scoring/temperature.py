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
# Logits that are looked at at once: what is made of them fits into a processor's cache.
_TILE = 1 << 15
# Rows of logits that exist at once.
_ROWS = 64


def token_numbers(logits: npt.NDArray[Any], targets: Sequence[int], *, threads: int = 1) -> Doubles:
    """What calibration needs of each token, [rows, COLUMNS].

    Columns: confidence, correct, negative log-likelihood, entropy; then, each for all `BETAS` b,
    ``logsumexp(b z) - b z_y`` and its first and second derivative in b (``E_b[z] - z_y``,
    ``Var_b[z]``), and the confidence at b.

    Args:
        logits: Shape [rows, vocab].
        targets: The tokens that came.
        threads: How many of the processor's to take, where our own library computes.
    """
    rows = np.arange(len(logits))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        best = logits.argmax(axis=1)
        top = logits[rows, best]
        sums = _native_sums(logits, top, threads) if logits.dtype == np.float32 else None
        if sums is None:
            sums = tempered_sums(logits, top)
        own = np.maximum(logits[rows, np.asarray(targets)] - top, -1e5).astype(np.float64)
        total = sums[:, :, 0]
        mean, square = sums[:, :, 1] / total, sums[:, :, 2] / total
        found = np.empty((len(logits), COLUMNS))
        found[:, CONFIDENCE] = 1 / total[:, ONE]
        found[:, CORRECT] = best == targets
        found[:, NLL] = np.log(total[:, ONE]) - own
        found[:, ENTROPY] = np.log(total[:, ONE]) - mean[:, ONE]
        found[:, FIRST::4] = np.log(total) - np.array(BETAS) * own[:, None]
        found[:, FIRST + 1 :: 4] = mean - own[:, None]
        found[:, FIRST + 2 :: 4] = np.maximum(square - mean * mean, 0)
        found[:, FIRST + 3 :: 4] = 1 / total
    return found


def _native_sums(logits: Floats, top: Floats, threads: int) -> Doubles | None:
    from llmcli.engine.native.model import tempered_sums as native

    return native(logits, top, threads=threads)


def tempered_sums(logits: npt.NDArray[Any], top: npt.NDArray[Any]) -> Doubles:
    """Sums of e^(b z), z e^(b z) and z^2 e^(b z), z = logit - top, for all `BETAS` b.

    Args:
        logits: Shape [rows, vocab].
        top: The largest of each row.

    Returns:
        Shape [rows, BETAS, 3].
    """
    found = np.zeros((len(logits), len(BETAS), 3))
    columns = min(logits.shape[1], _TILE)
    rows = max(1, _TILE // columns)
    tile = _Tile(rows, columns, logits.dtype)
    for row in range(0, len(logits), rows):
        piece = slice(row, row + rows)
        for column in range(0, logits.shape[1], columns):
            tile.add(logits[piece, column : column + columns], top[piece], found[piece])
    return found


class _Tile:
    """Memory for some rows and columns of logits that stays in the processor's cache.

    Args:
        rows: At most so many at once.
        columns: And so many.
        kind: Of the logits.
    """

    def __init__(self, rows: int, columns: int, kind: np.dtype[Any]) -> None:
        self._moments = np.ones((rows, 3, columns), kind)  # 1, z, z^2
        self._last = np.empty((rows, columns), kind)
        kept = {1, *(each // 2 for each in _EIGHTHS), *(each - each // 2 for each in _EIGHTHS)}
        memory = np.empty((len(kept), rows, columns), kind)
        self._powers = dict(zip(sorted(kept), memory, strict=True))

    def add(self, logits: npt.NDArray[Any], top: npt.NDArray[Any], sums: Doubles) -> None:
        """Add some columns' sums of e^(b z), z e^(b z) and z^2 e^(b z) for all `BETAS` b.

        Args:
            logits: Shape [rows, columns].
            top: What is taken from each row to make z of it.
            sums: Shape [rows, BETAS, 3].
        """
        rows, columns = logits.shape
        here = slice(rows), slice(columns)
        moments = self._moments[:rows, :, :columns]
        z = moments[:, 1]
        np.subtract(logits, top[:, None], out=z)
        # A forbidden token (-inf) weighs nothing; a number that is far enough serves for it.
        np.maximum(z, logits.dtype.type(-1e5), out=z)
        np.multiply(z, z, out=moments[:, 2])
        first = self._powers[1][here]
        np.exp(np.multiply(z, logits.dtype.type(0.125), out=first), out=first)
        for index, eighths in enumerate(_EIGHTHS):
            weights = self._powers.get(eighths, self._last)[here]
            half = self._powers[eighths // 2][here]
            np.multiply(half, self._powers[eighths - eighths // 2][here], out=weights)
            sums[:, index] += np.vecdot(weights[:, None], moments)


class CalibrationLikelihood(Likelihood):
    """Likelihood that also gives each token's numbers for calibration."""

    def _ask(self, states: Floats, targets: Sequence[int]) -> TokenScores:
        parts = []
        for begin in range(0, len(states), _ROWS):
            piece = slice(begin, begin + _ROWS)
            logits = self._decoder.logits(states[piece])
            numbers = token_numbers(logits, targets[piece], threads=self._decoder.threads)
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

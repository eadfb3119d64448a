"""What scoring wants of rows of logits: a few numbers each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# Of a row and its target: log(sum(exp(logits))), the entropy in nats, the target's logit, the
# largest logit and its first index, how many logits are greater than the target's, and how many
# equal ones stand before it. A target of -1 (none) has the logit 0.
ROW_STATS = np.dtype(
    [
        ("log_sum_exp", np.float64),
        ("entropy", np.float64),
        ("target", np.float32),
        ("largest", np.float32),
        ("argmax", np.int64),
        ("greater", np.int64),
        ("equal_before", np.int64),
    ]
)
# Rows whose float32 exponentials exist at once.
_ROWS = 64


def row_stats(logits: Floats, targets: Sequence[int]) -> npt.NDArray[Any]:
    """Return [rows] of `ROW_STATS`.

    Sums are in double precision. Rows that hold NaN or infinity give NaN, not an error.

    Args:
        logits: Shape [rows, vocab].
        targets: A token for each row; -1 for none.
    """
    wanted = np.asarray(targets, dtype=np.int64)
    found = np.zeros(len(logits), ROW_STATS)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for begin in range(0, len(logits), _ROWS):
            piece = slice(begin, begin + _ROWS)
            _describe(logits[piece], wanted[piece], found[piece])
    return found


def _describe(logits: Floats, targets: npt.NDArray[np.int64], found: npt.NDArray[Any]) -> None:
    rows = np.arange(len(logits))
    found["argmax"] = logits.argmax(axis=1)
    largest = found["largest"] = logits[rows, found["argmax"]]
    shifted = logits - largest[:, None]
    weights = np.exp(shifted)
    totals = weights.sum(axis=1, dtype=np.float64)
    found["log_sum_exp"] = np.log(totals) + largest
    # A forbidden token (-inf) adds nothing, though 0 * -inf is NaN.
    np.maximum(shifted, np.float32(-1e30), out=shifted)
    weights *= shifted
    found["entropy"] = np.log(totals) - weights.sum(axis=1, dtype=np.float64) / totals
    target = np.where(targets < 0, np.float32(0), logits[rows, targets])
    found["target"] = target
    found["greater"] = (logits > target[:, None]).sum(axis=1)
    equal = logits == target[:, None]
    found["equal_before"] = (equal & (np.arange(logits.shape[1]) < targets[:, None])).sum(axis=1)


class LogitStates(ABC):
    """The scoring half of the Decoder protocol for a decoder whose states are its logits."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """See Decoder."""

    @abstractmethod
    def append(
        self,
        texts: Sequence[tuple[int, Sequence[int]]],
        *,
        prompt: bool = False,
        every: bool = False,
    ) -> Floats:
        """See Decoder."""

    @property
    def state_size(self) -> int:
        """Numbers in a state: the logits."""
        return self.vocab_size

    def hidden(
        self,
        texts: Sequence[tuple[int, Sequence[int]]],
        *,
        prompt: bool = True,
        every: bool = True,
    ) -> Floats:
        """Append tokens to slots; their logits."""
        return self.append(texts, prompt=prompt, every=every)

    def logits(self, states: Floats) -> Floats:
        """The states."""
        return states

    def score(self, states: Floats, targets: Sequence[int]) -> npt.NDArray[Any]:
        """See `row_stats`."""
        return row_stats(states, targets)

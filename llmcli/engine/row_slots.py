"""Slots over a decoder of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch

from llmcli.engine.decoder import Floats
from llmcli.engine.row_stats import LogitStates


class RowSlots(LogitStates):
    """The Decoder protocol over decoders that each hold one row.

    Args:
        make: Makes an empty one; all share their weights.
    """

    rows_alike: int | None = None

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._rows: dict[int, Any] = {}
        self._ids: dict[int, list[int]] = {}
        self._next = 0
        self._any = make()

    @property
    def vocab_size(self) -> int:
        """How many logits a position has."""
        return int(self._any.vocab_size)

    @property
    def n_positions(self) -> int:
        """The context."""
        return int(self._any.n_positions)

    @property
    def weight_bytes(self) -> int | None:
        """Bytes of weights that a step reads."""
        return getattr(self._any, "weight_bytes", None)

    @property
    def kernels(self) -> str:
        """What computes, in words."""
        return getattr(self._any, "kernels", "torch's operators")

    @property
    def threads(self) -> int:
        """How many threads torch takes."""
        return torch.get_num_threads()

    def open(self) -> int:
        """Take an empty slot."""
        slot, self._next = self._next, self._next + 1
        self._rows[slot], self._ids[slot] = self._make(), []
        return slot

    def close(self, slot: int) -> None:
        """Give a slot back."""
        del self._rows[slot], self._ids[slot]

    def length(self, slot: int) -> int:
        """How many tokens a slot holds."""
        return len(self._ids[slot])

    def truncate(self, slot: int, length: int) -> None:
        """Keep a slot's first ``length`` tokens."""
        if length < len(self._ids[slot]):
            del self._ids[slot][length:]
            if length:
                self._rows[slot].rollback([length])

    def copy(self, source: int, target: int, length: int) -> int:
        """Read another slot's first ``length`` tokens."""
        if length:
            self.append([(target, self._ids[source][:length])])
        return length

    def append(
        self,
        texts: Sequence[tuple[int, Sequence[int]]],
        *,
        prompt: bool = False,
        every: bool = False,
    ) -> Floats:
        """Append tokens to slots; logits [tokens or slots, vocab]."""
        return np.concatenate([self._append(slot, list(ids), every) for slot, ids in texts])

    def _append(self, slot: int, ids: list[int], every: bool) -> Floats:
        row, held = self._rows[slot], self._ids[slot]
        first = not held
        held += ids
        if first and every:
            made = [row.prefill([ids[:1]])]
            if ids[1:]:
                made.append(row.extend([ids[1:]])[0])
            logits = torch.cat(made)
        elif first:
            logits = row.prefill([ids])
        elif len(ids) == 1:
            logits = row.step(ids)
        else:
            logits = row.extend([ids])[0] if every else row.extend([ids])[0][-1:]
        return cast("Floats", logits.cpu().numpy().copy())

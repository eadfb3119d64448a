"""A decoder whose logits are divided by a fitted temperature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcli.engine.decoder import Blocks, Floats, ScoringDecoder
from llmcli.engine.row_stats import ROW_STATS, row_stats

# Rows of logits that exist at once while they are scored.
_ROWS = 128


class TemperedDecoder:
    """Another decoder, with all logits divided by a temperature (Guo et al. 2017).

    See Decoder for what is not said here.

    Args:
        decoder: The model.
        temperature: Above 0.
    """

    def __init__(self, decoder: ScoringDecoder, temperature: float) -> None:
        self._decoder = decoder
        self._scale = np.float32(1 / temperature)

    @property
    def vocab_size(self) -> int:
        return self._decoder.vocab_size

    @property
    def n_positions(self) -> int:
        return self._decoder.n_positions

    @property
    def rows_alike(self) -> int | None:
        return self._decoder.rows_alike

    @property
    def piece_multiple(self) -> int | None:
        return self._decoder.piece_multiple

    @property
    def weight_bytes(self) -> int | None:
        return self._decoder.weight_bytes

    @property
    def kernels(self) -> str:
        return self._decoder.kernels

    @property
    def threads(self) -> int:
        return self._decoder.threads

    @property
    def blocks(self) -> Blocks | None:
        return self._decoder.blocks

    @property
    def state_size(self) -> int:
        return self._decoder.state_size

    def open(self) -> int:
        return self._decoder.open()

    def close(self, slot: int) -> None:
        self._decoder.close(slot)

    def length(self, slot: int) -> int:
        return self._decoder.length(slot)

    def truncate(self, slot: int, length: int) -> None:
        self._decoder.truncate(slot, length)

    def copy(self, source: int, target: int, length: int) -> int:
        return self._decoder.copy(source, target, length)

    def append(
        self,
        texts: Sequence[tuple[int, Sequence[int]]],
        *,
        prompt: bool = False,
        every: bool = False,
    ) -> Floats:
        return self._decoder.append(texts, prompt=prompt, every=every) * self._scale

    def hidden(
        self,
        texts: Sequence[tuple[int, Sequence[int]]],
        *,
        prompt: bool = True,
        every: bool = True,
    ) -> Floats:
        return self._decoder.hidden(texts, prompt=prompt, every=every)

    def logits(self, states: Floats) -> Floats:
        return self._decoder.logits(states) * self._scale

    def score(self, states: Floats, targets: Sequence[int]) -> npt.NDArray[Any]:
        found = np.zeros(len(states), ROW_STATS)
        for begin in range(0, len(states), _ROWS):
            piece = slice(begin, begin + _ROWS)
            found[piece] = row_stats(self.logits(states[piece]), targets[piece])
        return found

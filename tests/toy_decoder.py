"""A decoder without a model: its logits are a function of the tokens, the same for any batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmcli.engine.decoder import Floats


class ToyDecoder:
    """Random logits, seeded by all tokens of a slot.

    Attributes:
        calls: For each call of ``append`` how many tokens each slot got.
        opened: Slots that are open.
    """

    rows_alike: int | None = None
    piece_multiple: int | None = 1
    weight_bytes: int | None = None
    blocks = None
    kernels = "a toy"
    threads = 1

    def __init__(self, vocab_size: int = 50, n_positions: int = 40, *, seed: int = 0) -> None:
        self.vocab_size = vocab_size
        self.n_positions = n_positions
        self.calls: list[list[int]] = []
        self.opened: dict[int, list[int]] = {}
        self._seed = seed
        self._next = 0

    def logits(self, ids: Sequence[int]) -> Floats:
        """Logits after some tokens, [vocab]."""
        generator = np.random.default_rng([self._seed, len(ids), *ids])
        return generator.standard_normal(self.vocab_size, np.float32) * 2

    def open(self) -> int:
        self._next += 1
        self.opened[self._next] = []
        return self._next

    def close(self, slot: int) -> None:
        del self.opened[slot]

    def length(self, slot: int) -> int:
        return len(self.opened[slot])

    def truncate(self, slot: int, length: int) -> None:
        assert length <= len(self.opened[slot])
        del self.opened[slot][length:]

    def copy(self, source: int, target: int, length: int) -> int:
        assert length <= len(self.opened[source])
        self.opened[target] = self.opened[source][:length]
        return length

    def append(
        self,
        texts: Sequence[tuple[int, Sequence[int]]],
        *,
        prompt: bool = False,
        every: bool = False,
    ) -> Floats:
        assert len({slot for slot, _ in texts}) == len(texts)
        self.calls.append([len(ids) for _, ids in texts])
        rows = []
        for slot, ids in texts:
            held = self.opened[slot]
            assert ids
            assert len(held) + len(ids) <= self.n_positions
            for place, token in enumerate(ids):
                assert 0 <= token < self.vocab_size
                held.append(token)
                if every or place == len(ids) - 1:
                    rows.append(self.logits(held))
        return np.stack(rows)

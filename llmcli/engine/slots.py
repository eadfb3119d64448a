"""The cache of keys and values: slots, each with its own length.

A slot holds one text. Its memory is reserved for the whole context and costs nothing until it is
touched: pages are committed as tokens are written to them, and given back when the slot is
closed or cut. So a slot never grows by copying, and a hundred short texts take no more than what
they hold.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmcli.engine.native.model import NativeModel, SlotMemory

# Prompt tokens in an absolute block of so many may be computed another way than the rest; see
# native.h.
BLOCK = 64
_SMALLEST = 256


class Slots:
    """Keys and values of texts.

    Args:
        model: Whose they are.
        n_positions: The most tokens that a slot can hold.
    """

    def __init__(self, model: NativeModel, n_positions: int) -> None:
        self.n_positions = n_positions
        self._model = model
        self._memory: dict[int, SlotMemory] = {}
        self._lengths: dict[int, int] = {}
        self._blocks: dict[int, int] = {}
        self._next = 0

    def open(self) -> int:
        """Take an empty slot; returns its number, which was none before.

        Raises:
            MemoryError: there is no memory for it.
        """
        slot, self._next = self._next, self._next + 1
        try:
            memory = SlotMemory(self._model, self.n_positions)
        except MemoryError:  # not even the addresses are to be had: what is needed, then
            memory = SlotMemory(self._model, min(_SMALLEST, self.n_positions))
        self._memory[slot] = memory
        self._lengths[slot] = self._blocks[slot] = 0
        return slot

    def close(self, slot: int) -> None:
        """Give a slot and its memory back."""
        del self._lengths[slot], self._blocks[slot]
        self._memory.pop(slot).close()

    def memory(self, slot: int) -> SlotMemory:
        """What the library writes to."""
        return self._memory[slot]

    def length(self, slot: int) -> int:
        """How many tokens a slot holds."""
        return self._lengths[slot]

    def blocks(self, slot: int) -> int:
        """How many of a slot's first blocks were read as blocks of a prompt."""
        return self._blocks[slot]

    def make_room(self, slot: int, count: int) -> None:
        """See to it that a slot can take so many tokens more.

        Raises:
            ValueError: the context does not hold them.
            MemoryError: there is no memory for them.
        """
        length = self._lengths[slot]
        if not 0 < count <= self.n_positions - length:
            raise ValueError(f"{count} tokens after {length}; the context holds {self.n_positions}")
        old = self._memory[slot]
        if length + count > old.room:
            room = min(max(2 * old.room, length + count), self.n_positions)
            self._memory[slot] = SlotMemory(self._model, room)
            self._memory[slot].copy_from(old, length)
            old.close()

    def extend(self, slot: int, count: int, *, blocks: int = 0) -> None:
        """Count tokens that were written, and blocks of a prompt among them."""
        self._lengths[slot] += count
        self._blocks[slot] += blocks

    def truncate(self, slot: int, length: int) -> None:
        """Keep a slot's first ``length`` tokens; it holds as many at least."""
        if not 0 <= length <= self._lengths[slot]:
            raise ValueError(f"{length} tokens of {self._lengths[slot]}")
        if self._lengths[slot] - length > 4 * BLOCK:
            self._memory[slot].trim(length)
        self._lengths[slot] = length
        self._blocks[slot] = min(self._blocks[slot], length // BLOCK)

    def take_out(self, slot: int, block: int) -> SlotMemory:
        """A copy of one of a slot's whole blocks, in memory of its own.

        Raises:
            ValueError: it is not whole.
            MemoryError: there is no memory for it.
        """
        if not 0 <= block < self._lengths[slot] // BLOCK:
            raise ValueError(f"block {block} of {self._lengths[slot]} tokens")
        memory = SlotMemory(self._model, BLOCK)
        memory.copy_block(self._memory[slot], block, 0)
        return memory

    def put_in(self, slot: int, blocks: Sequence[SlotMemory]) -> None:
        """Make an empty slot hold blocks of `take_out`, one after the other."""
        self.make_room(slot, len(blocks) * BLOCK)
        for place, block in enumerate(blocks):
            self._memory[slot].copy_block(block, 0, place)
        self._lengths[slot] = len(blocks) * BLOCK
        self._blocks[slot] = len(blocks)

    def copy(self, source: int, target: int, length: int) -> None:
        """Make a slot hold the first ``length`` tokens of another, and nothing else."""
        if not 0 <= length <= self._lengths[source]:
            raise ValueError(f"{length} tokens of {self._lengths[source]}")
        self._lengths[target] = 0
        if length:
            self.make_room(target, length)
        self._memory[target].copy_from(self._memory[source], length)
        self._lengths[target] = length
        self._blocks[target] = min(self._blocks[source], length // BLOCK)

"""Beginnings of texts that were read, kept as blocks of keys and values in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmcli.engine.decoder import Blocks
from llmcli.engine.slots import BLOCK

# Each block is a mapping of its own, of which a process has some 65,000.
_MOST_BLOCKS = 16384

Tokens = tuple[int, ...]


@dataclass(slots=True, eq=False)
class _Node:
    """A block after those of its parents.

    Attributes:
        tokens: What was read in it.
        parent: The block before it; None for the first.
        kept: Its keys and values.
        following: Blocks after it, by their tokens.
    """

    tokens: Tokens = ()
    parent: _Node | None = None
    kept: Any = None
    following: dict[Tokens, _Node] = field(default_factory=dict)


class PrefixCache:
    """Keeps whole blocks of what slots of one decoder have read; the latest used stay.

    Texts that begin alike share the blocks that they begin with. They are found by their very
    tokens, and hold keys and values alone, so that what is computed after them has the bits that
    it would have without the cache.

    Args:
        blocks: Takes blocks out of the decoder's slots, and puts them in.
        capacity: Bytes.

    Attributes:
        capacity: Bytes that may be used.
    """

    def __init__(self, blocks: Blocks, capacity: int) -> None:
        self.capacity = capacity
        self._blocks = blocks
        self._most = min(capacity // blocks.nbytes, _MOST_BLOCKS)
        self._root = _Node()
        # By last use; a block is always used later than those that follow it.
        self._used: OrderedDict[_Node, None] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes that are used."""
        return len(self._used) * self._blocks.nbytes

    def length(self, prompt: Sequence[int]) -> int:
        """How many of a prompt's first tokens are kept; its last one never counts."""
        return BLOCK * len(self._path(prompt, (len(prompt) - 1) // BLOCK))

    def fill(self, slot: int, prompt: Sequence[int]) -> int:
        """Make an empty slot hold what is kept of a prompt.

        Returns:
            How many tokens that is: :meth:`length`.
        """
        path = self._path(prompt, (len(prompt) - 1) // BLOCK)
        if path:
            self._blocks.put_in(slot, [node.kept for node in path])
            self._touch(path)
        return BLOCK * len(path)

    def keep(self, slot: int, tokens: Sequence[int], *, most: int | None = None) -> bool:
        """Keep the whole blocks of a slot.

        Args:
            slot: The slot.
            tokens: What it holds.
            most: How many blocks may be copied now; None for all.

        Returns:
            Whether all of them are kept.
        """
        whole = min(self._blocks.whole(slot), len(tokens) // BLOCK, self._most)
        path = self._path(tokens, whole)
        end = whole if most is None else min(whole, len(path) + most)
        for index in range(len(path), end):
            node = _Node(
                tokens=_block(tokens, index),
                parent=path[-1] if path else self._root,
                kept=self._blocks.take_out(slot, index),
            )
            assert node.parent is not None  # given above
            node.parent.following[node.tokens] = node
            path.append(node)
        self._touch(path)
        while len(self._used) > self._most:
            self._forget(next(iter(self._used)))
        return len(path) == whole

    def _path(self, tokens: Sequence[int], most: int) -> list[_Node]:
        """The blocks that tokens begin with, at most so many."""
        path: list[_Node] = []
        node: _Node | None = self._root
        while node is not None and len(path) < most:
            node = node.following.get(_block(tokens, len(path)))
            if node is not None:
                path.append(node)
        return path

    def _touch(self, path: Sequence[_Node]) -> None:
        for node in reversed(path):
            self._used[node] = None
            self._used.move_to_end(node)

    def _forget(self, node: _Node) -> None:
        """Drop the block that was not used for longest; nothing follows it."""
        del self._used[node]
        if node.parent is not None:
            del node.parent.following[node.tokens]
        node.kept.close()


def _block(tokens: Sequence[int], index: int) -> Tokens:
    return tuple(tokens[index * BLOCK : (index + 1) * BLOCK])

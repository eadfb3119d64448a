"""Windows through a decoder's slots, to the states that its head reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from llmcli.engine.decoder import Floats
from llmcli.scoring.windows import Window

# 128 rows of 50,257 float32 logits are 26 MB.
ROWS_SLICE = 128
# Numbers of states that exist at once: 64 MB. Windows are read in pieces where they have more,
# which are those of decoders whose states are their logits.
_STATES = 16 * 1024 * 1024
# Prompts in pieces are cut at multiples of this many tokens, see Decoder.append.
_BLOCK = 64
# Windows that begin with fewer tokens in common read them each for itself.
_LEAST_SHARED = 8


@dataclass(frozen=True, slots=True)
class Piece:
    """States of one window, those of ``targets``, which follow them.

    Attributes:
        index: The window's place in its batch.
        targets: The tokens asked for after each of the states.
        hidden: The states of what was read, of which the last ones count.
    """

    index: int
    targets: Sequence[int]
    hidden: Floats


class States(Protocol):
    """What is asked of a decoder here; see Decoder."""

    @property
    def state_size(self) -> int: ...

    def open(self) -> int: ...

    def close(self, slot: int) -> None: ...

    def truncate(self, slot: int, length: int) -> None: ...

    def copy(self, source: int, target: int, length: int) -> int: ...

    def hidden(
        self,
        texts: Sequence[tuple[int, Sequence[int]]],
        *,
        prompt: bool = True,
        every: bool = True,
    ) -> Floats: ...


class WindowStates:
    """Reads windows in slots of a decoder; a context manager, which gives the slots back."""

    def __init__(self, decoder: States) -> None:
        self._decoder = decoder
        self._slots: list[int] = []
        self._base: int | None = None
        self._begins: list[int] = []
        self.shared = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for slot in self._slots if self._base is None else [*self._slots, self._base]:
            self._decoder.close(slot)

    def share(self, windows: Sequence[Window]) -> None:
        """Read once what the next windows have in common at their beginning.

        Only what nothing is asked of is shared: the state of the last token before a window's
        first scored one is each window's own. What an earlier call read is kept as far as it is
        the same.
        """
        begins = [list(each.tokens[: each.first - 1]) for each in windows]
        common = begins[0][: _alike(begins)]
        known = _alike([common, self._begins])
        alone = len(windows) == 1 and known < len(common)
        self.shared = 0 if alone or len(common) < _LEAST_SHARED else len(common)
        if not self.shared or known == len(common):
            return
        if self._base is None:
            self._base = self._decoder.open()
        # Prompts are cut at the ends of blocks, so that a later piece is read as the first was.
        kept = known // _BLOCK * _BLOCK
        self._decoder.truncate(self._base, kept)
        self._decoder.hidden([(self._base, common[kept:])], every=False)
        self._begins = common

    def read(self, batch: Sequence[Window]) -> Iterator[list[Piece]]:
        """Read some windows; every scored token comes in one piece, a window's in their order."""
        # The last window goes on where what is shared was read; the others copy it.
        last = [] if self._base is None or not self.shared else [self._base]
        while len(self._slots) + len(last) < len(batch):
            self._slots.append(self._decoder.open())
        slots = [*self._slots[: len(batch) - len(last)], *last]
        held = [self._begin(slot) for slot in slots]
        rest = [list(each.tokens[at:-1]) for at, each in zip(held, batch, strict=True)]
        most = max(_BLOCK, _STATES // self._decoder.state_size // _BLOCK * _BLOCK)
        if sum(map(len, rest)) <= most:
            texts = list(zip(slots, rest, strict=True))
            hidden = self._decoder.hidden(texts)
            ends = np.cumsum([len(ids) for ids in rest])[:-1]
            yield [
                Piece(index, window.tokens[window.first :], states)
                for index, (window, states) in enumerate(
                    zip(batch, np.split(hidden, ends), strict=True)
                )
            ]
            return
        for index, (window, at) in enumerate(zip(batch, held, strict=True)):
            for piece in self._in_pieces(slots[index], window, at, most):
                yield [Piece(index, *piece)]

    @staticmethod
    def states(pieces: Sequence[Piece]) -> Floats:
        """The states of all pieces' targets, [targets, state_size]."""
        found = [each.hidden[len(each.hidden) - len(each.targets) :] for each in pieces]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _begin(self, slot: int) -> int:
        """Empty a slot, or fill it with what is shared; how many tokens it holds."""
        if slot == self._base:
            self._decoder.truncate(slot, self.shared)
            self._begins = self._begins[: self.shared]
            return self.shared
        self._decoder.truncate(slot, 0)
        if self.shared and self._base is not None:
            return self._decoder.copy(self._base, slot, self.shared)
        return 0

    def _in_pieces(
        self, slot: int, window: Window, at: int, most: int
    ) -> Iterator[tuple[Sequence[int], Floats]]:
        """Read one window a stretch at a time: what is scored, and its states."""
        wanted = window.first - 1
        unscored = (wanted - at) // _BLOCK * _BLOCK
        if unscored > 0:
            self._decoder.hidden([(slot, window.tokens[at : at + unscored])], every=False)
            at += unscored
        while at < len(window.tokens) - 1:
            end = min(at + most, len(window.tokens) - 1)
            hidden = self._decoder.hidden([(slot, window.tokens[at:end])])
            yield window.tokens[max(at, wanted) + 1 : end + 1], hidden
            at = end


def _alike(begins: Sequence[Sequence[int]]) -> int:
    """How many tokens all of some texts begin with in common."""
    columns = zip(*begins, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))

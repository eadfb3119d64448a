"""The Decoder over our own kernels.

One arithmetic: a token's logits depend on the model, its precision, the kernels' level and the
tokens before it, and on nothing else. Neighbours, chunks, threads and copied prefixes change no
bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcli.engine.decoder import Blocks
from llmcli.engine.native.library import description
from llmcli.engine.native.model import NativeModel, SlotMemory
from llmcli.engine.packed_model import PackedModel
from llmcli.engine.slots import BLOCK, Slots
from llmcli.engine.threads import Threads

Floats = npt.NDArray[np.float32]

# So many tokens go through the model at once, so that an interrupt is noticed in between.
PASS_TOKENS = 512


class NativeDecoder:
    """Decodes a model that our own kernels compute; see the Decoder protocol.

    Args:
        model: The weights; decoders may share them.
        n_positions: The context; the most tokens a slot can hold.
        threads: How many threads; None to measure it, see :class:`llmcli.engine.threads.Threads`.
    """

    # Rows never change each other's bits.
    rows_alike: int | None = None

    def __init__(self, model: PackedModel, *, n_positions: int, threads: int | None = None) -> None:
        learned = model.blueprint.positions
        self._n_positions = min(n_positions, learned) if learned else n_positions
        self._model = model
        self._slots = Slots(model.native, self._n_positions)
        self._threads = Threads(threads)
        # Only then do the kernels compute blocks of prompts another way, if they do.
        self._in_blocks = model.precision == "bfloat16"

    # -- what it is --------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """How many logits a position has."""
        return self._model.blueprint.vocab_size

    @property
    def state_size(self) -> int:
        """Numbers in a state."""
        return self._model.blueprint.width

    @property
    def n_positions(self) -> int:
        """The context."""
        return self._n_positions

    @property
    def piece_multiple(self) -> int:
        """Of how many tokens a prompt's pieces but the last must be a multiple."""
        return BLOCK if self._in_blocks else 1

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that a step reads."""
        return self._model.nbytes

    @property
    def kernels(self) -> str:
        """What computes, in words."""
        return description()

    @property
    def threads(self) -> int:
        """How many threads the latest step took."""
        return self._threads.latest

    @property
    def blocks(self) -> Blocks:
        """What takes blocks of tokens out of slots."""
        return _SlotBlocks(self._model.native, self._slots, canonical=self._in_blocks)

    # -- slots -------------------------------------------------------------------------------

    def open(self) -> int:
        """Take an empty slot."""
        return self._slots.open()

    def close(self, slot: int) -> None:
        """Give a slot and its memory back."""
        self._slots.close(slot)

    def length(self, slot: int) -> int:
        """How many tokens a slot holds."""
        return self._slots.length(slot)

    def truncate(self, slot: int, length: int) -> None:
        """Keep a slot's first ``length`` tokens."""
        self._slots.truncate(slot, length)

    def copy(self, source: int, target: int, length: int) -> int:
        """Make a slot hold the first ``length`` tokens of another, as if it had read them.

        They are taken to be of a prompt that is at least so long and goes on in the target.

        Returns:
            How many it holds now: all of them, or, where blocks of prompts are computed another
            way than the rest, those that were read as such blocks.
        """
        if self._in_blocks:
            length = min(length, self._slots.blocks(source) * BLOCK)
        self._slots.copy(source, target, length)
        return length

    def append(
        self,
        texts: Sequence[tuple[int, Sequence[int]]],
        *,
        prompt: bool = False,
        every: bool = False,
    ) -> Floats:
        """Append tokens to slots, together.

        Args:
            texts: Slots, each at most once, and the tokens that each gets: one or more.
            prompt: Whether they are of prompts, not generated. A prompt may come in pieces, all
                but the last multiples of `piece_multiple`; a single generated token may stand
                beside them.
            every: Whether logits after every token are wanted; else those after each slot's
                last one.

        Returns:
            Logits, [tokens or slots, vocab], in the order given.

        Raises:
            ValueError: a slot has no room for its tokens, or a token is none.
        """
        return self._append(texts, prompt=prompt, every=every, states=False)

    def hidden(
        self,
        texts: Sequence[tuple[int, Sequence[int]]],
        *,
        prompt: bool = True,
        every: bool = True,
    ) -> Floats:
        """Append tokens to slots; what the head reads, after the final norm.

        Arguments and errors as for :meth:`append`.

        Returns:
            Shape [tokens or slots, width]; :meth:`logits` and :meth:`score` take it.
        """
        return self._append(texts, prompt=prompt, every=every, states=True)

    def logits(self, states: Floats) -> Floats:
        """The head over what :meth:`hidden` returned: [rows, vocab], as :meth:`append` has it."""
        return self._model.native.logits(states, threads=self._threads.most)

    def score(self, states: Floats, targets: Sequence[int]) -> npt.NDArray[Any]:
        """What scoring wants of the logits over states, by slices, never all of them at once.

        Args:
            states: What :meth:`hidden` returned, [rows, width].
            targets: A token for each row; -1 for none.

        Returns:
            [rows] of :data:`llmcli.engine.row_stats.ROW_STATS`. ``target - log_sum_exp`` is the
            target's log-probability in nats.
        """
        wanted = np.array(targets, np.int64)
        found = self._model.native.score(states, wanted, threads=self._threads.most)
        found["target"][wanted < 0] = 0
        return found

    def _append(
        self,
        texts: Sequence[tuple[int, Sequence[int]]],
        *,
        prompt: bool,
        every: bool,
        states: bool,
    ) -> Floats:
        for slot, ids in texts:
            self._slots.make_room(slot, len(ids))
        found = [
            self._pass(pieces, every=every, states=states, prompt=prompt)
            for pieces in _passes(texts, self._slots)
        ]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _pass(self, pieces: Sequence[_Piece], *, every: bool, states: bool, prompt: bool) -> Floats:
        """Run some tokens through the model, all at once."""
        ids = np.concatenate([np.array(piece.ids, np.int64) for piece in pieces])
        counts = [len(piece.ids) for piece in pieces]
        starts = [self._slots.length(piece.slot) for piece in pieces]
        pairs = list(zip(starts, counts, strict=True))
        positions = np.concatenate([np.arange(at, at + count) for at, count in pairs])
        blocks = [self._whole_blocks(at, count, prompt) for at, count in pairs]
        if every:
            outputs = np.arange(len(ids))
        else:
            ends = np.cumsum(counts) - 1
            outputs = ends[[piece.last for piece in pieces]]
        canonical = None
        if any(blocks):
            marks = [np.arange(count) < BLOCK * b for b, count in zip(blocks, counts, strict=True)]
            canonical = np.concatenate(marks).astype(np.uint8)
        with self._threads.timing(len(ids)) as threads:
            result = self._model.native.forward(
                self._model.embed(ids, positions),
                [self._slots.memory(piece.slot) for piece in pieces],
                np.repeat(np.arange(len(pieces)), counts),
                positions,
                outputs,
                threads=threads,
                states=states,
                canonical=canonical,
            )
        for piece, count, block in zip(pieces, counts, blocks, strict=True):
            self._slots.extend(piece.slot, count, blocks=block)
        return result

    def _whole_blocks(self, start: int, count: int, prompt: bool) -> int:
        """How many whole blocks of a prompt so many tokens from a position on begin with."""
        return count // BLOCK if prompt and self._in_blocks and start % BLOCK == 0 else 0


class _SlotBlocks:
    """Blocks of slots; see the Blocks protocol.

    Args:
        model: Whose keys and values.
        slots: Where they are.
        canonical: Whether only those count that were read as blocks of a prompt.
    """

    def __init__(self, model: NativeModel, slots: Slots, *, canonical: bool) -> None:
        self._slots = slots
        self._canonical = canonical
        self.nbytes = SlotMemory(model, BLOCK).nbytes
        self.take_out = slots.take_out
        self.put_in = slots.put_in

    def whole(self, slot: int) -> int:
        if self._canonical:
            return self._slots.blocks(slot)
        return self._slots.length(slot) // BLOCK


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens that are to be appended to a slot; ``last`` where its text ends with them."""

    slot: int
    ids: Sequence[int]
    last: bool


def _passes(texts: Sequence[tuple[int, Sequence[int]]], slots: Slots) -> Iterator[list[_Piece]]:
    """All tokens in their order, cut at ends of blocks so that a pass has a bounded number."""
    pieces: list[_Piece] = []
    free = PASS_TOKENS
    for slot, ids in texts:
        start, at = 0, slots.length(slot)
        while start < len(ids):
            # As much as is free, to the end of a block; where that is nothing, the next pass.
            count = min(free, len(ids) - start)
            if count < len(ids) - start:
                count -= (at + start + count) % BLOCK
            if count <= 0:
                yield pieces
                pieces, free = [], PASS_TOKENS
                continue
            pieces.append(_Piece(slot, ids[start : start + count], start + count == len(ids)))
            start, free = start + count, free - count
            if free == 0:
                yield pieces
                pieces, free = [], PASS_TOKENS
    if pieces:
        yield pieces

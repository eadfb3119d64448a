"""What the scheduler asks of a model: the Decoder protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Blocks(Protocol):
    """Keys and values of 64 tokens each, apart from any slot.

    A slot that they were put into is to the bit as if it had read their tokens as a prompt.
    """

    @property
    def nbytes(self) -> int:
        """The size of one."""
        ...

    def whole(self, slot: int) -> int:
        """How many of a slot's first blocks can be taken out."""
        ...

    def take_out(self, slot: int, block: int) -> Any:
        """A copy of a slot's block, counted from 0."""
        ...

    def put_in(self, slot: int, blocks: Sequence[Any]) -> None:
        """Make an empty slot hold blocks, one after the other."""
        ...


class Decoder(Protocol):
    """A causal language model with slots: each holds the tokens of one text and what was made
    of them.

    Position ``p`` of a slot is its ``p``-th token, whatever the other slots hold. Logits are
    float32.
    """

    @property
    def vocab_size(self) -> int:
        """How many logits a position has."""
        ...

    @property
    def n_positions(self) -> int:
        """The context: the most tokens a slot can hold."""
        ...

    @property
    def rows_alike(self) -> int | None:
        """How many slots one call may serve with the very bits that each would have alone.

        None is any number. Where it is not 1, it is also the same to the bit whether a text was
        read at once, in pieces, or copied.
        """
        ...

    @property
    def piece_multiple(self) -> int | None:
        """Of how many tokens a prompt's pieces but the last must be a multiple.

        None where a prompt must be read at once, lest its bits change.
        """
        ...

    @property
    def weight_bytes(self) -> int | None:
        """Bytes of weights that a step reads; None where that is not known."""
        ...

    @property
    def kernels(self) -> str:
        """What computes, in words."""
        ...

    @property
    def threads(self) -> int:
        """How many threads the latest step took."""
        ...

    @property
    def blocks(self) -> Blocks | None:
        """What takes blocks of tokens out of slots, to be put into others; None without."""
        ...

    def open(self) -> int:
        """Take an empty slot; returns its number."""
        ...

    def close(self, slot: int) -> None:
        """Give a slot and its memory back."""
        ...

    def length(self, slot: int) -> int:
        """How many tokens a slot holds."""
        ...

    def truncate(self, slot: int, length: int) -> None:
        """Keep a slot's first ``length`` tokens, forget the rest."""
        ...

    def copy(self, source: int, target: int, length: int) -> int:
        """Make a slot hold the first ``length`` tokens of another, as if it had read them.

        Returns:
            How many it holds now; the caller appends the others.
        """
        ...

    def append(
        self,
        texts: Sequence[tuple[int, Sequence[int]]],
        *,
        prompt: bool = False,
        every: bool = False,
    ) -> Floats:
        """Append tokens to slots.

        Args:
            texts: Slots, each at most once, and the tokens that each gets: one or more.
            prompt: Whether the tokens are of prompts, not generated. A prompt may come in
                pieces, see `piece_multiple`; a single generated token may stand beside them.
            every: Whether logits after every token are wanted; else those after each slot's
                last one.

        Returns:
            Logits, [tokens or slots, vocab], in the order given.
        """
        ...


class ScoringDecoder(Decoder, Protocol):
    """A decoder that also gives what scoring asks for: states, and the head over them."""

    @property
    def state_size(self) -> int:
        """Numbers in a state."""
        ...

    def hidden(
        self,
        texts: Sequence[tuple[int, Sequence[int]]],
        *,
        prompt: bool = True,
        every: bool = True,
    ) -> Floats:
        """Append tokens to slots; states, [tokens or slots, state_size], that the head reads.

        Arguments as for `append`.
        """
        ...

    def logits(self, states: Floats) -> Floats:
        """The head over states of `hidden`: [rows, vocab], as `append` has it."""
        ...

    def score(self, states: Floats, targets: Sequence[int]) -> npt.NDArray[Any]:
        """A few numbers of each row of logits, without all logits at once where that can be.

        Args:
            states: What `hidden` returned, [rows, state_size].
            targets: A token for each row; -1 for none.

        Returns:
            [rows] of `llmcli.engine.row_stats.ROW_STATS`; ``target - log_sum_exp`` is the
            target's log-probability in nats, ``greater + 1`` its rank.
        """
        ...

"""What the scheduler asks of a model: the Decoder protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


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
                pieces; all but the last are multiples of 64 tokens.
            every: Whether logits after every token are wanted; else those after each slot's
                last one.

        Returns:
            Logits, [tokens or slots, vocab], in the order given.
        """
        ...

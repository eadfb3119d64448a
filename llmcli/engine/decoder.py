"""What the generation loop asks of a model: the Decoder protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Decoder(Protocol):
    """A causal language model with a key/value cache over a batch of rows.

    Rows may have different lengths; position ``p`` of a row is always its ``p``-th token,
    whatever its neighbours are. Logits are float32 on the decoder's device. No method changes
    global torch state; all run under ``torch.inference_mode``.
    """

    @property
    def vocab_size(self) -> int:
        """How many logits a position has."""
        ...

    @property
    def n_positions(self) -> int:
        """The context: the most tokens a row can hold."""
        ...

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens in the cache, a number for each row; empty before the first prefill."""
        ...

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Forget everything, read the prompts, return the logits after each one's last token.

        Args:
            prompts: Token ids, a row each, at least one token in each row.

        Returns:
            Logits, shape [batch, vocab].
        """
        ...

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to each row.

        Returns:
            Logits after it, shape [batch, vocab].
        """
        ...

    def extend(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Append the same number of tokens to every row.

        Args:
            tokens: Shape [batch, time].

        Returns:
            Logits after each of them, shape [batch, time, vocab].
        """
        ...

    def rollback(self, lengths: Sequence[int]) -> None:
        """Keep the first ``lengths[row]`` tokens of each row, forget the rest."""
        ...

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order; a row may be left out or repeated."""
        ...

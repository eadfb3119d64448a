"""The Decoder over any causal language model of transformers, its forward and its cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch

from llmcli.engine.decoder import Floats
from llmcli.engine.reading import Reading, Text, find_reading
from llmcli.engine.row_stats import LogitStates


class TransformersDecoder(LogitStates):
    """Decodes with ``module(input_ids, past_key_values=...)``; see the Decoder protocol.

    Slots are decoded one model call each: exact for every architecture, where padding is not
    (not every model takes position ids or masks).

    Args:
        module: A transformers causal language model in eval mode.
        n_positions: The context; the most tokens a slot can hold.
        reading: How the model can be read; found out if it is not given.

    Raises:
        UnsupportedModel: It is not causal, or cannot be read at all.
    """

    rows_alike: int | None = 1
    piece_multiple: int | None = None
    weight_bytes: int | None = None
    kernels = "torch's operators"
    blocks = None  # where a text was cut changes its bits

    def __init__(self, module: Any, *, n_positions: int, reading: Reading | None = None) -> None:
        self._module = module
        self._n_positions = n_positions
        self._reading = reading or find_reading(
            module, name=str(module.config.model_type), n_positions=n_positions
        )
        self._slots: dict[int, Text] = {}
        self._next = 0

    @property
    def vocab_size(self) -> int:
        """How many logits a position has."""
        return int(self._module.get_output_embeddings().weight.shape[0])

    @property
    def n_positions(self) -> int:
        """The context."""
        return self._n_positions

    @property
    def threads(self) -> int:
        """How many threads torch takes."""
        return torch.get_num_threads()

    def open(self) -> int:
        """Take an empty slot."""
        slot, self._next = self._next, self._next + 1
        self._slots[slot] = Text(self._module, self._reading)
        return slot

    def close(self, slot: int) -> None:
        """Give a slot back."""
        del self._slots[slot]

    def length(self, slot: int) -> int:
        """How many tokens a slot holds."""
        return len(self._slots[slot])

    def truncate(self, slot: int, length: int) -> None:
        """Keep a slot's first ``length`` tokens."""
        self._slots[slot].truncate(length)

    def copy(self, source: int, target: int, length: int) -> int:
        """Make a slot hold the first ``length`` tokens of another."""
        self._slots[target] = self._slots[source].copied(length)
        return length

    def append(
        self,
        texts: Sequence[tuple[int, Sequence[int]]],
        *,
        prompt: bool = False,
        every: bool = False,
    ) -> Floats:
        """Append tokens to slots; logits [tokens or slots, vocab]."""
        read = [self._slots[slot].append(ids, every=every) for slot, ids in texts]
        logits = np.concatenate([each.float().cpu().numpy() for each in read])
        return cast("Floats", logits)

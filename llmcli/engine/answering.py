"""An encoder with a decoder, once it has read a source: a causal model of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Answering:
    """Reads answers with ``module(decoder_input_ids=..., encoder_outputs=...)``.

    It has what `llmcli.engine.reading` asks of a causal model, so that a decoder's slots hold
    answers as they hold other texts. The source is encoded once, for all of them.

    Args:
        module: A transformers model of an encoder and a decoder, in eval mode.
        source: What is answered; token ids, with those that the tokenizer adds.
    """

    def __init__(self, module: Any, source: Sequence[int]) -> None:
        self._module = module
        self.config = module.config
        self.device = module.device
        ids = torch.tensor([list(source)], device=module.device)
        self._mask = torch.ones_like(ids)
        with torch.inference_mode():
            self._encoded = module.get_encoder()(
                input_ids=ids, attention_mask=self._mask, return_dict=True
            )

    def get_input_embeddings(self) -> Any:
        """Those of the answer's tokens."""
        return self._module.get_decoder().get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        """The head."""
        return self._module.get_output_embeddings()

    def forward(
        self, input_ids: Tensor, past_key_values: Any = None, use_cache: bool | None = None
    ) -> Any:
        """Logits after each token of an answer, and the cache."""
        return self._module(
            decoder_input_ids=input_ids,
            encoder_outputs=self._encoded,
            attention_mask=self._mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )

    __call__ = forward

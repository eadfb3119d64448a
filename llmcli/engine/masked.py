"""What a masked language model expects at places of a text, through transformers' forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch

from llmcli.engine.decoder import Floats

# Logits that exist at once, of all places of a batch: 128 MB of float32.
_LOGITS = 1 << 25


class MaskedReader:
    """Reads texts in both directions.

    Args:
        module: A transformers masked language model in eval mode.
    """

    def __init__(self, module: Any) -> None:
        self._module = module

    @property
    def vocab_size(self) -> int:
        """How many logits a place has."""
        return int(self._module.get_output_embeddings().weight.shape[0])

    @torch.inference_mode()
    def logits(
        self,
        texts: Sequence[Sequence[int]],
        places: Sequence[int],
        *,
        batch_size: int | None = None,
    ) -> Floats:
        """Read texts of one length, each for one of its places.

        Args:
            texts: Token ids, with those that the tokenizer adds.
            places: Where in each of them a token is asked for.
            batch_size: Texts that are read at once; None for a bounded number of logits.

        Returns:
            Logits, [texts, vocab], float32.
        """
        length = max(1, len(texts[0]))
        size = batch_size or max(1, _LOGITS // (length * self.vocab_size))
        found = []
        for start in range(0, len(texts), size):
            batch = [list(text) for text in texts[start : start + size]]
            ids = torch.tensor(batch, device=self._module.device)
            logits = self._module(ids, attention_mask=torch.ones_like(ids)).logits
            rows = torch.arange(len(batch), device=logits.device)
            wanted = torch.tensor(list(places[start : start + size]), device=logits.device)
            found.append(logits[rows, wanted].float().cpu().numpy())
        return cast("Floats", np.concatenate(found))

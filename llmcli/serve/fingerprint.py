"""What an answer depends on beside its request, as one short name."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING

from llmcli.tasks.provenance import provenance

if TYPE_CHECKING:
    from llmcli.engine.decoder import Decoder
    from llmcli.models.language_model import LanguageModel


def system_fingerprint(model: LanguageModel, decoder: Decoder) -> str:
    """A hash of the model, its precision, the kernels and the versions of what computes.

    The same fingerprint, seed and request give the same bytes.
    """
    parts = {
        **provenance(model),
        "model": None,  # the revision says which weights; the name may differ
        "kernels": decoder.kernels,
        "context": decoder.n_positions,
        "generation": model.generation_defaults,
        "tokenizer": sha256(model.tokenizer.backend.to_str().encode()).hexdigest(),
    }
    text = json.dumps(parts, sort_keys=True, default=str)
    return f"fp_{sha256(text.encode()).hexdigest()[:16]}"

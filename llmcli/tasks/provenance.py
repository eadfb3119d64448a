"""Where a result came from: what every JSON record carries."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from llmcli._version import __version__
from llmcli.engine.params import SamplingParams

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel


def provenance(model: LanguageModel) -> dict[str, Any]:
    """Return model, revision, precision, device and library versions, ready for JSON."""
    return {
        "model": model.name,
        "revision": model.revision,
        "precision": model.precision,
        "device": model.device,
        **({} if model.calibration is None else {"calibration": model.calibration.to_dict()}),
        "versions": {
            "llmcli": __version__,
            **{name: version(name) for name in ("torch", "transformers", "tokenizers")},
        },
    }


def settings_record(params: SamplingParams) -> dict[str, Any]:
    """Return sampling settings ready for JSON; the seed stands beside them, not among them."""
    record = asdict(params)
    del record["seed"]
    # JSON has no infinity: a token that is forbidden has the bias null.
    record["logit_bias"] = [
        [token, None if bias == float("-inf") else bias] for token, bias in params.logit_bias
    ]
    record["sequence_bias"] = [
        [list(tokens), None if bias == float("-inf") else bias]
        for tokens, bias in params.sequence_bias
    ]
    record["stop"] = list(params.stop)
    return record

"""Where a result came from: what every JSON record carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any, Protocol

from llmcli.engine.params import SamplingParams


class Described(Protocol):
    """A model as records tell of it: one that is loaded here, or a server's."""

    @property
    def name(self) -> str:
        """Its name as it was asked for."""
        ...

    @property
    def revision(self) -> str | None:
        """The Hub's commit, or the sha256 of a folder's weights."""
        ...

    @property
    def device(self) -> str:
        """Where it runs."""
        ...

    @property
    def precision(self) -> str:
        """Of its weights."""
        ...

    @property
    def calibration(self) -> Fitted | None:
        """What its logits are divided by."""
        ...

    @property
    def versions(self) -> dict[str, str]:
        """Of what computes."""
        ...

    @property
    def timings(self) -> dict[str, float]:
        """Seconds that each step of loading took, by name."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes of a token."""
        ...


class Fitted(Protocol):
    """A temperature that was fitted to a model."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        ...


def provenance(model: Described) -> dict[str, Any]:
    """Return model, revision, precision, device and library versions, ready for JSON."""
    return {
        "model": model.name,
        "revision": model.revision,
        "precision": model.precision,
        "device": model.device,
        **({} if model.calibration is None else {"calibration": model.calibration.to_dict()}),
        "versions": model.versions,
    }


def settings_record(params: SamplingParams) -> dict[str, Any]:
    """Return sampling settings ready for JSON; the seed stands beside them, not among them."""
    return dict(_settings(params))


@lru_cache(maxsize=8)
def _settings(params: SamplingParams) -> dict[str, Any]:
    """The same, made once for a batch."""
    record = {field.name: getattr(params, field.name) for field in fields(params)}
    del record["seed"], record["grammar"]
    if params.grammar is not None:
        record["grammar"] = params.grammar.source.to_dict()
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


def params_of(record: Mapping[str, Any]) -> SamplingParams:
    """The settings that `settings_record` tells of, and the seed beside them."""
    given = {name: _frozen(value) for name, value in record.items()}
    for name in ("logit_bias", "sequence_bias"):
        given[name] = tuple(
            (token, float("-inf") if bias is None else bias) for token, bias in given[name]
        )
    return SamplingParams(**given)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value

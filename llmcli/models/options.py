"""What is asked of a model: which one, how its files may be had, how it runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from llmcli.errors import InvalidInput
from llmcli.reporting import Notify, Progress, silent

if TYPE_CHECKING:
    from llmcli.hub.cache import Need
    from llmcli.hub.resolve import ResolvedModel

Precision = Literal["float32", "bfloat16", "int8", "int4"]
Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """Which model, how its files may be had, and how it runs.

    Attributes:
        model: A folder, a bundled model's name, or a Hub id; None for gpt2, for which the
            bundled model stands in where it cannot be had.
        revision: A branch, tag or commit on the Hub.
        offline: Never use the network.
        refresh: Ask the Hub although the model is cached.
        timeout: Seconds the Hub may stay silent.
        allow_pickle: Accept weights in pickle files, which can run code when they are read.
        trust_remote_code: Run Python code that the model brings.
        device: auto, cpu, cuda or mps.
        precision: Of the weights; None for float32 (bfloat16 on cuda).
        threads: Processor threads; None for as many as are measured to be fastest (where
            transformers computes: torch's own choice).

    Raises:
        InvalidInput: there is no such device or precision.
    """

    model: str | None = None
    revision: str | None = None
    offline: bool = False
    refresh: bool = False
    timeout: float = 10.0
    allow_pickle: bool = False
    trust_remote_code: bool = False
    device: Device = "auto"
    precision: Precision | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("precision", self.precision or "float32", get_args(Precision)),
            ("device", self.device, get_args(Device)),
        ):
            if value not in known:
                raise InvalidInput(f"{name} is {value!r}.", f"Use one of {', '.join(known)}.")

    def of(self, model: str | None) -> LoadOptions:
        """The same asked of another model; a revision belongs to the first alone."""
        return replace(self, model=model, revision=None)

    def resolve(
        self,
        *,
        need: Need = "model",
        notify: Notify = silent,
        progress: Progress | None = None,
    ) -> ResolvedModel:
        """Find the model's files; the rest as for :func:`llmcli.hub.resolve.resolve`."""
        from llmcli.hub.resolve import resolve

        return resolve(
            self.model,
            revision=self.revision,
            offline=self.offline,
            refresh=self.refresh,
            timeout=self.timeout,
            allow_pickle=self.allow_pickle,
            trust_remote_code=self.trust_remote_code,
            need=need,
            notify=notify,
            progress=progress,
        )

"""A verb made ready for a batch: its work, and what the rows depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmcli._version import __version__
from llmcli.io.batch_run import Work

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """A verb with its model loaded.

    Attributes:
        work: What it makes of records.
        made_by: What the rows depend on, for the manifest: JSON values by name.
        lines: How many rows a record has.
        threads: Processor threads that it takes.
        end: Called when all records are done.
    """

    work: Work
    made_by: Mapping[str, Any]
    lines: int = 1
    threads: int = 1
    end: Callable[[], None] | None = None


def made_by(command: str, model: LanguageModel, **settings: Any) -> dict[str, Any]:
    """What a verb's rows depend on: the model as it was loaded, and the verb's own settings."""
    fitted = model.calibration
    return {
        "command": command,
        "version": __version__,
        "model": model.name,
        "revision": model.revision,
        "precision": model.precision,
        "device": model.device,
        **({} if fitted is None else {"calibration": fitted.temperature}),
        **settings,
    }

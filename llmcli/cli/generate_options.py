"""What ``llmcli generate`` alone takes, as it stands on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmcli.cli.options import unescaped

if TYPE_CHECKING:
    from llmcli.models.calibration_file import FittedTemperature
    from llmcli.tokenization.tokenizer import SpecialTokens

# Tokens that a page lists in each place where nobody said how many.
_ALTERNATIVES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """What generate alone takes."""

    stop: tuple[str, ...]
    keep_stop: bool
    ignore_eos: bool
    num_return_sequences: int | None
    num_beams: int | None
    length_penalty: float | None
    early_stopping: str | None
    seed: int | None
    logprobs: int | None
    heal: bool
    source_lang: str | None
    target_lang: str | None
    prefix: str
    bos: bool
    special: SpecialTokens
    echo: bool | None
    null: bool
    stats: bool
    keep_newline: bool
    draft: str | None
    calibration: FittedTemperature | None
    batch_size: int | None
    context: int | None
    html: str | None

    def given(self) -> dict[str, Any]:
        """Return what was set, by SamplingParams' names."""
        names = ("num_return_sequences", "num_beams", "length_penalty", "seed", "logprobs")
        said = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.html is not None:
            said.setdefault("logprobs", _ALTERNATIVES)
        if self.early_stopping is not None:
            words = {"true": True, "false": False}
            said["early_stopping"] = words.get(self.early_stopping, self.early_stopping)
        if self.draft is not None:
            said.setdefault("num_beams", 1)
        return {
            **said,
            "stop": tuple(unescaped(each) for each in self.stop),
            "keep_stop": self.keep_stop,
            "ignore_eos": self.ignore_eos,
        }

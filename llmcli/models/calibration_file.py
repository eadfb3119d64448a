"""What was fitted to a model, in a TOML file that knows which model that is."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli.errors import InvalidInput
from llmcli.io.files import atomic_write
from llmcli.io.sources import read_text

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel

_WHAT = {
    "temperature": "llmcli calibrate --save",
    "labels": "llmcli calibrate --labels --save",
}


def write_calibration(
    path: Path, kind: str, model: LanguageModel, values: Mapping[str, Any]
) -> None:
    """Write what was fitted to a model.

    Args:
        path: The file, which appears when it is complete.
        kind: ``temperature`` or ``labels``.
        model: Of which model it is.
        values: Texts, numbers, lists of them; None is left out.

    Raises:
        StorageError: the disk does not take it.
    """
    own = {
        "kind": kind,
        "model": model.name,
        "revision": model.revision,
        "precision": model.precision,
        "tokenizer": tokenizer_digest(model),
    }
    lines = [f"# Written by {_WHAT[kind]}; see docs/calibration.md."]
    for name, value in {**own, **values}.items():
        if value is not None:
            lines.append(f"{name} = {_toml(value)}")
    with atomic_write(path) as file:
        file.write(("\n".join(lines) + "\n").encode("utf-8", "replace"))


def _toml(value: Any) -> str:
    if isinstance(value, str):
        # JSON's spelling is TOML's, but for the one control character that JSON lets through.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    return repr(value)


def read_calibration(path: str, kind: str) -> dict[str, Any]:
    """Read what was fitted to a model.

    Raises:
        InvalidInput: it cannot be read, is no such file, or is of the other kind.
    """
    text = read_text(path)
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise InvalidInput(f"{path} is not TOML: {exc}.", f"Name a file of {_WHAT[kind]}.") from exc
    if found.get("kind") != kind:
        other = _WHAT.get(str(found.get("kind")))
        why = f"is a file of {other}" if other else "holds no calibration"
        raise InvalidInput(f"{path} {why}.", f"Name a file of {_WHAT[kind]}.")
    return found


def check_owner(path: str, found: Mapping[str, Any], model: LanguageModel) -> None:
    """Raise unless a file was fitted to this model.

    Raises:
        InvalidInput: it is another model's or another tokenizer's.
    """
    theirs, ours = found.get("revision"), model.revision
    alike = theirs == ours if theirs and ours else found.get("model") == model.name
    cure = f"Fit one with llmcli calibrate -m {model.name}."
    if not alike:
        named = f"{found.get('model')}{_short(theirs)}"
        raise InvalidInput(f"{path} is of {named}, not of {model.name}{_short(ours)}.", cure)
    if found.get("tokenizer") != tokenizer_digest(model):
        raise InvalidInput(f"{path} is of another tokenizer than that of {model.name}.", cure)


def _short(revision: object) -> str:
    return f" (revision {str(revision)[:12]})" if revision else ""


def tokenizer_digest(model: LanguageModel) -> str:
    """The sha256 of a model's tokenizer, as the library writes it."""
    return hashlib.sha256(model.tokenizer.backend.to_str().encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedTemperature:
    """A temperature of a file, for the model that it was fitted to.

    Attributes:
        path: The file.
        temperature: What logits are divided by.
        interval: Its interval of 95 %; None where the text was too short for one.
        content: All that the file holds.
    """

    path: str
    temperature: float
    interval: tuple[float, float] | None
    content: Mapping[str, Any]

    @classmethod
    def read(cls, path: str) -> FittedTemperature:
        """Read a file of ``calibrate --save``.

        Raises:
            InvalidInput: it cannot be read or is no such file.
        """
        content = read_calibration(path, "temperature")
        value = content.get("temperature")
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise InvalidInput(
                f"{path} has no temperature above 0.", "Write it anew with llmcli calibrate --save."
            )
        interval = content.get("temperature_interval")
        return cls(
            path=path,
            temperature=float(value),
            interval=None if not interval else (float(interval[0]), float(interval[1])),
            content=content,
        )

    def check(self, model: LanguageModel) -> None:
        """Raise InvalidInput unless it was fitted to this model; another precision is a notice."""
        check_owner(self.path, self.content, model)
        fitted = self.content.get("precision")
        if fitted != model.precision:
            model.notify(
                f"{self.path} was fitted in {fitted}, and {model.name} computes in "
                f"{model.precision}."
            )
        model.detail(f"Logits are divided by {self.temperature:.4g}, which {self.path} says.")

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"file": self.path, "temperature": self.temperature}

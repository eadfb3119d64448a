"""What a person types after ``-m``: a Hub id, a folder, or a bundled model's name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from llmcli.errors import InvalidInput, ModelNotFound

DEFAULT_MODEL = "gpt2"

BUNDLED_FOLDER = Path(__file__).parents[1] / "models" / "bundled"

# The Hub's own rule: letters, digits, "-", "_", "."; neither ".." nor "--"; at most 96 in a part.
_ID_PART = r"(?!.*(?:\.\.|--))[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_HUB_ID = re.compile(rf"(?:{_ID_PART}/)?{_ID_PART}")
_REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._/+@#-]{0,253}[A-Za-z0-9_+-])?")
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
# Models that the Hub has under two names, since those without an owner were given one.
_RENAMED = {
    **{name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large")},
    **{name: f"openai-community/{name}" for name in ("gpt2-xl", "openai-gpt")},
    "distilgpt2": "distilbert/distilgpt2",
    "ctrl": "Salesforce/ctrl",
    "xlnet-base-cased": "xlnet/xlnet-base-cased",
    "xlnet-large-cased": "xlnet/xlnet-large-cased",
}
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class ModelReference:
    """A name and, perhaps, a revision of it.

    Attributes:
        name: A folder, a bundled model's name or a Hub id, as it was typed.
        revision: A branch, a tag or a commit; None where none was asked for.
    """

    name: str
    revision: str | None = None

    @property
    def is_path(self) -> bool:
        """Whether the name is written as a path, so that it can only mean a folder."""
        return self.name.startswith((".", "/", "~", "\\")) or self.name.endswith(("/", "\\"))

    @property
    def is_hub_id(self) -> bool:
        """Whether the name could be a Hub repository's (``name`` or ``owner/name``)."""
        return not self.is_path and _HUB_ID.fullmatch(self.name) is not None

    @property
    def folder(self) -> Path:
        """The folder that the name means if it means one (``~`` stands for the home folder)."""
        return Path(self.name).expanduser() if self.name.startswith("~") else Path(self.name)

    def require_hub_id(self) -> None:
        """Refuse a name that no folder has and no Hub repository can have.

        Raises:
            ModelNotFound: It is neither.
        """
        if not self.is_hub_id:
            raise ModelNotFound(
                f"There is no folder {quoted(self.name)}, and it cannot be a model's name.",
                "Give an existing folder, or a name such as gpt2 or owner/name.",
            )


def parse_reference(text: str, revision: str | None = None) -> ModelReference:
    """Read ``NAME`` or ``NAME@REVISION``; an existing folder may have an ``@`` in its name.

    Args:
        text: What was typed after ``-m``.
        revision: What was typed after ``--revision``.

    Raises:
        InvalidInput: The name is empty, either holds control characters, the revision is not
            one that git could have, or two different revisions were given.
    """
    _refuse_control_characters(text, "model name")
    if not text:
        raise InvalidInput("The model name is empty.", "Give a name such as gpt2 after -m.")
    name, at, written = text.rpartition("@")
    if not at or not name or Path(text).is_dir():
        name, written = text, ""
    elif not written:
        raise InvalidInput(f"No revision follows the @ in {quoted(text)}.", "Leave the @ out.")
    if written and revision is not None and written != revision:
        raise InvalidInput(
            f"Two revisions were given: {quoted(written)} and {quoted(revision)}.",
            "Give one, after the @ or with --revision.",
        )
    chosen = written or revision
    if chosen is not None:
        check_revision(chosen)
    return ModelReference(name, chosen)


def check_revision(revision: str) -> None:
    """Refuse what cannot be a branch, tag or commit, and so can never become a path.

    Raises:
        InvalidInput: Control characters, ``..``, an empty part, or other characters.
    """
    _refuse_control_characters(revision, "revision")
    parts = revision.split("/")
    if not _REVISION.fullmatch(revision) or ".." in revision or any(p in ("", ".") for p in parts):
        raise InvalidInput(
            f"{quoted(revision)} cannot be a revision.",
            "Give a branch, a tag, or the 40 hexadecimal digits of a commit.",
        )


def is_commit(revision: str) -> bool:
    """Whether a revision is a full commit hash, which never changes its meaning."""
    return _COMMIT.fullmatch(revision) is not None


def names_of(name: str) -> tuple[str, ...]:
    """A Hub id and the other one that the same model has, if it has two."""
    others = [old for old, new in _RENAMED.items() if new == name]
    return (name, *([_RENAMED[name]] if name in _RENAMED else others))


def bundled_models() -> dict[str, Path]:
    """The models that ship with the package, by name."""
    if not BUNDLED_FOLDER.is_dir():
        return {}
    folders = sorted(path for path in BUNDLED_FOLDER.iterdir() if (path / "config.json").is_file())
    return {path.name: path for path in folders}


def quoted(text: str) -> str:
    """A name as it may stand in a message: cut to a sane length, control characters escaped."""
    shown = text if len(text) <= 120 else f"{text[:117]}..."
    return '"' + _CONTROL.sub(lambda match: ascii(match.group())[1:-1], shown) + '"'


def _refuse_control_characters(text: str, what: str) -> None:
    if _CONTROL.search(text):
        raise InvalidInput(
            f"The {what} {quoted(text)} holds a control character.", "Type it without."
        )

"""What a continuation is to be, as it was written down; checked without a model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmcli.engine.grammar.schema import LARGEST, check_schema, schema_text
from llmcli.errors import InvalidInput
from llmcli.extras import missing_package

GrammarKind = Literal["json_schema", "regex", "lark", "choice"]

_NAMES = {"json_schema": "JSON schema", "regex": "regular expression", "lark": "grammar"}
_REASON = 300  # characters of another's message that one line shows


@dataclass(frozen=True, slots=True)
class GrammarSource:
    """A grammar as text.

    Attributes:
        kind: What it is written in.
        text: The schema as JSON, the expression, the Lark grammar, or the choices as a JSON list.
    """

    kind: GrammarKind
    text: str

    @property
    def name(self) -> str:
        """What a message calls it."""
        return _NAMES.get(self.kind, "list of choices")

    def to_dict(self) -> dict[str, str]:
        """What a record says of it: a schema may be larger than all that is made with it."""
        return {"kind": self.kind, "sha256": hashlib.sha256(self.text.encode()).hexdigest()}

    def compiled(self) -> str:
        """The grammar as llguidance reads it.

        Raises:
            InvalidInput: it cannot be compiled, or says what is not supported.
            LlmcliError: llguidance is not installed.
        """
        matcher = library().LLMatcher
        text: str
        if self.kind == "json_schema":
            # Compact: no space but those in strings. Nothing that is not understood is ignored.
            options: Any = {"whitespace_flexible": False, "lenient": False, "coerce_one_of": False}
            text = matcher.grammar_from_json_schema(self.text, overrides=options)
        elif self.kind == "lark":
            text = matcher.grammar_from_lark(self.text)
        elif self.kind == "regex":
            text = matcher.grammar_from_regex(self.text)
        else:
            choices = "|".join(_literal(each) for each in json.loads(self.text))
            text = matcher.grammar_from_regex(f"({choices})")
        failed, messages = matcher.validate_grammar_with_warnings(text)
        if failed:
            raise self.refused(messages[0])
        return text

    def refused(self, message: str) -> InvalidInput:
        """The error for what llguidance says of it."""
        keys = re.match(r"Unimplemented keys: \[(.*)\]", message)
        if keys is not None:
            names = keys[1].replace('"', "'")
            return InvalidInput(
                f"The JSON schema has {names}, which is not supported.",
                "Leave it out, and check the text yourself.",
            )
        return InvalidInput(
            f"The {self.name} cannot be used: {_one_line(message)}.",
            "docs/structured-output.md says what is supported.",
        )


def json_schema(value: Any) -> GrammarSource:
    """The JSON documents that a schema allows, written without spaces.

    Args:
        value: The schema, as JSON values.

    Raises:
        InvalidInput: it is no schema, too large, or has keywords that nobody knows.
    """
    if isinstance(value, bool):
        if not value:
            raise InvalidInput("The JSON schema false allows nothing.", "Give another one.")
        value = {}
    check_schema(value)
    return GrammarSource("json_schema", json.dumps(value, ensure_ascii=False))


def parse_json_schema(text: str, *, source: str) -> GrammarSource:
    """The same, of a schema's text.

    Args:
        text: JSON.
        source: Where it is from, for messages.

    Raises:
        InvalidInput: as there, or it is no JSON.
    """
    return json_schema(schema_text(text, source=source))


def regex(expression: str) -> GrammarSource:
    """The texts that an expression matches as a whole.

    Raises:
        InvalidInput: it is empty or too large.
    """
    return GrammarSource("regex", _bounded(expression, "regular expression"))


def lark(text: str) -> GrammarSource:
    """The texts of a Lark grammar's ``start`` rule.

    Raises:
        InvalidInput: it is empty or too large.
    """
    return GrammarSource("lark", _bounded(text, "grammar"))


def choices(texts: Sequence[str]) -> GrammarSource:
    """One of several texts.

    Raises:
        InvalidInput: there is none, or one of them is empty.
    """
    if not texts or not all(texts):
        raise InvalidInput("A choice has no text.", "Give at least one character.")
    written = json.dumps(list(dict.fromkeys(texts)), ensure_ascii=False)
    return GrammarSource("choice", _bounded(written, "list of choices"))


def library() -> Any:
    """The llguidance package.

    Raises:
        LlmcliError: it is not installed.
    """
    try:
        import llguidance
    except ImportError as exc:
        raise missing_package("A grammar", "grammar") from exc
    return llguidance


def _bounded(text: str, name: str) -> str:
    if not text.strip():
        raise InvalidInput(f"The {name} is empty.", "Give one.")
    if len(text) > LARGEST:
        raise InvalidInput(
            f"The {name} has {len(text):,} characters, and {LARGEST:,} are the most.",
            "Give a smaller one.",
        )
    return text


def _literal(text: str) -> str:
    """An expression that matches one text."""
    return re.sub(r"[^\w\s]", lambda found: f"\\x{{{ord(found[0]):x}}}", text)


def _one_line(message: str) -> str:
    """What is wrong, of a message that goes on with a drawing or the parser's state."""
    lines = [line.strip() for line in message.splitlines()]
    told = [line for line in lines if line.startswith("error:")] or lines
    text = re.sub(r"^(?:at )?(\d+)\(\d+\): ", r"line \1: ", told[0].removeprefix("error:").strip())
    text = text.split(" in regex /")[0]
    return text[:_REASON].rstrip(" .:") or "it is not understood"

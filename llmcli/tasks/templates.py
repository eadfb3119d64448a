"""Texts with places for a record's fields, and worked examples set before a prompt."""

from __future__ import annotations

import json
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llmcli.errors import InvalidInput
from llmcli.io.records import Columns, Record, Source, rows_at_hand

INPUT = "input"
"""The place of a record's text, whatever the record calls it."""


@dataclass(frozen=True, slots=True)
class Template:
    """A text with places in it: ``{input}`` is a record's text, ``{name}`` its field ``name``.

    ``{{`` and ``}}`` are braces.

    Attributes:
        text: As it was given.
        parts: Literal texts, and the field that follows each; None after the last.
    """

    text: str
    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Read a template.

        Raises:
            InvalidInput: a brace stands alone, or holds something else than a field's name.
        """
        parts = []
        try:
            for literal, field, layout, conversion in string.Formatter().parse(text):
                if field is not None and (layout or conversion or not field.isidentifier()):
                    raise ValueError(f"{{{field}}} is no field's name")
                parts.append((literal, field))
        except ValueError as exc:
            raise InvalidInput(
                f"The template cannot be read: {exc}.",
                "Write {input} for the text, {name} for a field, {{ and }} for braces.",
            ) from exc
        return cls(text, tuple(parts))

    @property
    def fields(self) -> frozenset[str]:
        """The names of its places."""
        return frozenset(field for _, field in self.parts if field is not None)

    @property
    def tail(self) -> str:
        """What follows the last place."""
        literal, field = self.parts[-1] if self.parts else ("", None)
        return "" if field is not None else literal

    def fill(self, text: str, fields: Mapping[str, Any], *, place: str = "The record") -> str:
        """Put a record into the places.

        Args:
            text: For ``{input}``.
            fields: The record's fields, for the other places.
            place: How an error calls the record.

        Raises:
            InvalidInput: the record lacks a field.
        """
        found = []
        for literal, field in self.parts:
            found.append(literal)
            if field == INPUT:
                found.append(text)
            elif field is not None:
                found.append(_value(fields, field, place))
        return "".join(found)

    def fill_all(self, text: str) -> str:
        """Put one text into every place."""
        return self.fill(text, dict.fromkeys(self.fields, text))


def _value(fields: Mapping[str, Any], name: str, place: str) -> str:
    if name not in fields:
        raise InvalidInput(
            f"{place} has no field {name!r}, which the template names.",
            "Write {{ and }} where braces are meant.",
        )
    value = fields[name]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def labelled(
    source: Source, columns: Columns, label_field: str
) -> Iterable[tuple[Record, str | InvalidInput]]:
    """Yield a table's records with their labels, or what is wrong with them.

    Raises:
        InvalidInput: the table cannot be read.
    """
    for record in rows_at_hand([source], columns=columns):
        if record is None:
            continue
        label = record.fields.get(label_field)
        if record.error is not None:
            yield record, record.error
        elif isinstance(label, bool | int | str) and (shown := _label(label)):
            yield record, shown
        else:
            yield (
                record,
                InvalidInput(
                    f"{record.place} has no label in the field {label_field!r}.",
                    "Give each record its label, or name the field with --label-field.",
                ),
            )


def _label(value: bool | int | str) -> str:
    return (value if isinstance(value, str) else json.dumps(value)).strip()

"""JSON schemas before they are compiled: size, depth, and keywords that would say nothing.

llguidance refuses the keywords of the standard that it does not implement. What the standard
does not know it passes over, as the standard says; a misspelt ``required`` would allow anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from llmcli.errors import InvalidInput

LARGEST = 1 << 20  # characters of a schema
_DEEPEST = 100

# Of keyword -> schemas by name; of keyword -> a list of schemas; of keyword -> one schema.
_BY_NAME = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
_LISTS = {"allOf", "anyOf", "oneOf", "prefixItems"}
_ONE = {"additionalProperties", "additionalItems", "not", "if", "then", "else", "contains"}
_ONE |= {"propertyNames", "unevaluatedItems", "unevaluatedProperties"}
_VALUES = {"type", "enum", "const", "required", "pattern", "format", "$ref", "$id", "$schema"}
_VALUES |= {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
_VALUES |= {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_VALUES |= {"uniqueItems", "minContains", "maxContains", "dependentRequired", "dependencies"}
_VALUES |= {"$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "id"}
# They say something to people and programs, and nothing about what is valid.
_NOTES = {"title", "description", "default", "examples", "example", "deprecated", "readOnly"}
_NOTES |= {"writeOnly", "$comment", "discriminator", "$vocabulary"}
_KNOWN = _BY_NAME | _LISTS | _ONE | _VALUES | _NOTES | {"items"}


def schema_text(text: str, *, source: str) -> Any:
    """Parse a schema.

    Raises:
        InvalidInput: it is too large, or no JSON.
    """
    check_size(len(text))
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        reason = "it is nested too deeply" if isinstance(exc, RecursionError) else exc
        raise InvalidInput(
            f"The JSON schema in {source} is no JSON: {reason}.", "Give a schema, or its file."
        ) from exc


def check_size(characters: int) -> None:
    """Raise InvalidInput for a schema of more than a mebibyte."""
    if characters > LARGEST:
        raise InvalidInput(
            f"The JSON schema has {characters:,} characters, and {LARGEST:,} are the most.",
            "Give a smaller one.",
        )


def check_schema(schema: Any) -> None:
    """Refuse a schema that could not mean what it says.

    Raises:
        InvalidInput: a part that is no schema, a keyword that JSON Schema does not have, a
            schema that is nested too deeply.
    """
    waiting = [(schema, "", 0)]
    while waiting:
        part, place, depth = waiting.pop()
        if isinstance(part, bool):
            continue
        where = f" at {place}" if place else ""
        if not isinstance(part, dict):
            raise InvalidInput(
                f"The JSON schema{where} is no object.", 'For example {"type": "string"}.'
            )
        if depth > _DEEPEST:
            raise InvalidInput(
                f"The JSON schema is nested more than {_DEEPEST} deep.", "Give a flatter one."
            )
        _check_names(part, where)
        for keyword, value in part.items():
            _check_keyword(keyword, value, where)
            for name, inner in _inner(keyword, value):
                waiting.append((inner, f"{place}/{keyword}{name}", depth + 1))


def _check_keyword(keyword: str, value: Any, where: str) -> None:
    if keyword not in _KNOWN and not keyword.startswith("x-"):
        raise InvalidInput(
            f"The JSON schema has {keyword!r}{where}, which is not supported.",
            "Leave it out, or correct its name.",
        )
    if keyword == "x-guidance":
        raise InvalidInput(
            f"The JSON schema has 'x-guidance'{where}, which is not supported.", "Leave it out."
        )
    if keyword.startswith("exclusive") and isinstance(value, bool):
        raise InvalidInput(
            f"The JSON schema has {keyword!r} with {str(value).lower()}{where}, as draft 4 had it.",
            "Give the bound itself.",
        )


def _check_names(part: dict[str, Any], where: str) -> None:
    """Refuse ``minProperties`` where the names that are counted could be one name twice."""
    least, required = part.get("minProperties", 0), part.get("required")
    free = part.get("additionalProperties", True) is not False or part.get("patternProperties")
    known = len(set(map(str, required))) if isinstance(required, list) else 0
    if free and isinstance(least, int) and least > max(1, known):
        raise InvalidInput(
            f"The JSON schema has 'minProperties' {least}{where} where names are free, which is "
            "not supported.",
            "Require the names that must be there, or allow no additionalProperties.",
        )


def _inner(keyword: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The schemas inside a keyword's value, each with the rest of its pointer."""
    if keyword in _BY_NAME and isinstance(value, dict):
        yield from ((f"/{name}", each) for name, each in value.items())
    elif (keyword in _LISTS or keyword == "items") and isinstance(value, list):
        yield from ((f"/{index}", each) for index, each in enumerate(value))
    elif keyword in _ONE or keyword == "items":
        yield "", value

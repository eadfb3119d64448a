"""Holds what ``--json`` prints against docs/schemas."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"


def kind_of(command: str, line: str | bytes) -> str:
    """Which kind of a command's records a line is; fails where it is none."""
    whole = json.loads((FOLDER / f"{command}.json").read_text("utf-8"))
    record = json.loads(line)
    wrong = {}
    for kind in whole["anyOf"]:
        validator = jsonschema.Draft202012Validator({**kind, "$defs": whole["$defs"]})
        found = jsonschema.exceptions.best_match(validator.iter_errors(record))
        name: str = kind["$ref"].rpartition("/")[2]
        if found is None:
            return name
        wrong[name] = f"{found.json_path}: {found.message}"
    raise AssertionError(f"{command}: {wrong}")

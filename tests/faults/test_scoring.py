"""Perplexity of next to nothing is a number or an error, never ``nan`` (row 23)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from llmcli.cli.main import cli


@pytest.mark.parametrize(
    ("text", "options", "status"),
    [
        ("", [], 2),
        ("", ["--no-bos"], 2),
        ("a", [], 0),
        ("a", ["--no-bos"], 2),
    ],
)
def test_row_23_perplexity_of_no_or_one_token(
    tiny_gpt2: Path, text: str, options: list[str], status: int
) -> None:
    result = CliRunner().invoke(
        cli, ["score", "-m", str(tiny_gpt2), "--json", *options], input=text
    )
    assert result.exit_code == status, result.output
    if status == 0:
        record = json.loads(result.stdout)
        assert record["tokens"] == 1
        assert math.isfinite(record["perplexity"])
    else:
        assert result.stdout == ""
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1

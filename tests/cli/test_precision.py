"""A precision that the processor lacks gives way to a finer one, the same way in every command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import RunLlmcli

CALLS = {
    "generate": ("-n", "3", "--seed", "1", "The fox"),
    "next": ("The fox",),
    "rank": ("--prompt", "The", " fox", " crow"),
    "score": ("The fox said",),
}


def precisions(value: Any) -> Iterator[str]:
    """Every ``precision`` in a record, at any depth."""
    if isinstance(value, dict):
        yield from (each for key, each in value.items() if key == "precision")
        for each in value.values():
            yield from precisions(each)


@pytest.mark.parametrize("command", CALLS)
def test_a_finer_one_with_a_notice(
    run_llmcli: RunLlmcli, tiny_gpt2: Path, avx2: dict[str, str], command: str
) -> None:
    call = (command, "-m", str(tiny_gpt2), "--json", *CALLS[command])
    result = run_llmcli(*call, "--precision", "bfloat16", env=avx2)
    assert result.returncode == 0, result.stderr
    notices = result.stderr.decode().splitlines()
    assert sum("No bfloat16 here" in line and "float32 is used" in line for line in notices) == 1
    record = json.loads(result.stdout.splitlines()[0])
    assert list(precisions(record)) == ["float32"]


def test_of_the_second_model_too(
    run_llmcli: RunLlmcli, tiny_gpt2: Path, avx2: dict[str, str]
) -> None:
    call = ("score", "-m", str(tiny_gpt2), "--json", "--vs-precision", "bfloat16", "The fox")
    result = run_llmcli(*call, env=avx2)
    assert result.returncode == 0, result.stderr
    assert b"No bfloat16 here" in result.stderr
    record = json.loads(result.stdout)
    assert record["vs"]["precision"] == "float32"
    assert record["difference"]["nll"] == 0

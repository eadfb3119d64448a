"""Start-up is a promise: what is light imports nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "rich", "huggingface_hub", "numpy", "tokenizers", "httpx2")

# Runs the command line as the script does, and tells which packages that imported.
PROGRAM = """
import sys
from llmcli.__main__ import main
try:
    main()
except SystemExit as exit:
    code = exit.code
    sys.stdout.flush()
names = {name.partition(".")[0] for name in sys.modules}
print("\\nimported:", code, *sorted(names), file=sys.stderr)
"""


def imported(*args: str, **variables: str) -> set[str]:
    """Return the top-level packages in memory after ``llmcli ARGS``, which must succeed."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *args],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    _, _, line = result.stderr.rpartition("imported: ")
    code, *names = line.split()
    assert code in ("0", "None"), result.stderr
    return set(names)


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["--version"],
        ["generate", "--help"],
        ["next", "--help"],
        ["completion", "bash"],
        ["models", "list"],
        ["models", "list", "--json"],
    ],
    ids=" ".join,
)
def test_light_commands(args: list[str]) -> None:
    heavy = set(HEAVY)
    if args[:2] == ["models", "list"] and "--json" not in args:
        heavy -= {"rich"}  # draws a table
    assert not imported(*args) & heavy


def test_completion_of_a_model_name() -> None:
    names = imported(
        _LLMCLI_COMPLETE="bash_complete", COMP_WORDS="llmcli generate -m f", COMP_CWORD="3"
    )
    assert not names & set(HEAVY)


def test_a_wrong_call_is_found_before_anything_heavy_is_imported() -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "llmcli", "generate", "--top-p", "2", "x"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 2
    assert "'--top-p': 2.0 is out of range" in result.stderr
    modules = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "llmcli.cli.generate" in modules
    assert not modules & set(HEAVY)


def test_the_package_itself_is_light() -> None:
    code = "import llmcli, sys; print(*{n.partition('.')[0] for n in sys.modules})"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert not set(result.stdout.split()) & {*HEAVY, "click"}


def test_encoding_needs_no_torch(tiny_gpt2: Path) -> None:
    names = imported("encode", "-m", str(tiny_gpt2), "Once upon a time")
    assert "tokenizers" in names
    assert not names & {"torch", "transformers", "huggingface_hub"}


@pytest.mark.parametrize(
    "args",
    [
        ["generate", "-n", "3", "--seed", "1", "Once upon a time"],
        ["generate", "-n", "3", "--draft", "ngram", "--greedy", "Once upon a time"],
        ["next", "Once upon a time"],
        ["score", "Once upon a time"],
        ["rank", "--prompt", "Once", " upon", " a time"],
    ],
    ids=" ".join,
)
def test_a_prepared_model_needs_no_torch(args: list[str], tiny_gpt2: Path) -> None:
    from llmcli.engine.native.library import library

    if library() is None:
        pytest.skip("the library was not built")
    command, *rest = args
    call = [command, "-m", str(tiny_gpt2), "--precision", "int8", *rest]
    assert {"torch", "transformers"} <= imported(*call)  # the first time, to prepare it
    assert not imported(*call) & {"torch", "transformers", "safetensors", "huggingface_hub"}

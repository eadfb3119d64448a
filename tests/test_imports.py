"""Start-up is a promise: what is light imports nothing heavy."""

from __future__ import annotations

import json
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
    assert "llmcli.cli.main" in modules
    assert not modules & set(HEAVY)


def test_a_command_imports_no_other_one() -> None:
    code = (
        "import sys; from llmcli.cli.main import cli; cli.commands['next']\n"
        "print(*(n for n in cli.commands if f'llmcli.cli.{n}' in sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.split() == ["next", "help"]  # the room of help pages is not the command


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


# Runs command lines one after the other; tells what each of them has added to memory.
SEVERAL = """
import json, sys
from llmcli.__main__ import main
for args in json.loads(sys.argv.pop()):
    sys.argv[1:] = args
    try:
        main()
    except SystemExit as exit:
        assert not exit.code, args
    heavy = {"torch", "transformers", "safetensors", "huggingface_hub"} & set(sys.modules)
    print("\\nimported:", args[0], *sorted(heavy), file=sys.stderr)
"""


def test_a_prepared_model_needs_no_torch(tiny_gpt2: Path) -> None:
    from llmcli.engine.native.library import library

    if library() is None:
        pytest.skip("the library was not built")
    text = "Once upon a time"
    generate = ["generate", "-n", "3", text]
    calls = [
        [*generate, "--seed", "1"],
        [*generate, "--draft", "ngram", "--greedy"],
        [*generate, "--num-beams", "2"],
        [*generate, "--choice", " a", "--choice", " b"],
        ["next", text],
        ["score", text],
        ["rank", "--prompt", "Once", " upon", " a time"],
        ["bench", "-n", "2", "-r", "1"],
    ]
    calls = [[*call, "-m", str(tiny_gpt2), "--precision", "int8"] for call in calls]
    assert {"torch", "transformers"} <= imported(*calls[0])  # the first time, to prepare it
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL, json.dumps(calls)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("imported: ")]
    assert told == [f"imported: {call[0]}" for call in calls]

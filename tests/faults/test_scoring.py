"""``llmcli score`` where there is next to nothing to score, or where the text goes away."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
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
    """A number or an error, never ``nan``."""
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


# -- files that go away ------------------------------------------------------------------------


def _start(*files: Path, model: Path) -> subprocess.Popen[str]:
    """``score`` over files, in a process of its own."""
    command = [sys.executable, "-m", "llmcli", "score", "-q", "-m", str(model)]
    for file in files:
        command += ["-i", str(file)]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_file_removed_before_its_turn(tiny_gpt2: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    os.mkfifo(first)
    second.write_text("was there when the call began")
    with _start(first, second, model=tiny_gpt2) as process:
        with first.open("w") as pipe:  # opens when the process reads from it
            second.unlink()
            pipe.write("Once upon a time there was a little fox.")
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    assert err == (
        f"Error: Cannot read {second}: No such file or directory. "
        "Check the name and its permissions.\n"
    )


def test_a_file_removed_while_it_is_read_is_read_to_its_end(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    file = tmp_path / "fox"
    os.mkfifo(file)
    with _start(file, model=tiny_gpt2) as process:
        with file.open("w") as pipe:
            file.unlink()
            pipe.write("Once upon a time there was a little fox.")
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    text = "Once upon a time there was a little fox."
    alone = CliRunner().invoke(cli, ["score", "-q", "-m", str(tiny_gpt2), text])
    assert float(out) == pytest.approx(float(alone.stdout), rel=1e-5)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc")
def test_a_read_that_fails(tiny_gpt2: Path) -> None:
    """A process's memory opens, and cannot be read at 0: the kernel says EIO, as a bad disk's."""
    with _start(Path("/proc/self/mem"), model=tiny_gpt2) as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "")
    assert err == "Error: Cannot read /proc/self/mem: Input/output error. Check the device.\n"


@pytest.mark.parametrize(("name", "message"), [("gone", "No such file"), (".", "is a directory")])
def test_a_missing_file_is_seen_before_the_model_is_loaded(
    tmp_path: Path, name: str, message: str
) -> None:
    arguments = ["score", "-m", str(tmp_path / "no-model"), "-i", str(tmp_path / name)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1

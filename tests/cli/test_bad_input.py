"""Bad input: one clear line each, the right status, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from llmcli.cli.main import cli

MEGABYTE = " All work and no play makes Jack a dull boy." * 24_000

# What is typed, what comes on stdin, the status, what the line says.
CASES: dict[str, tuple[list[str], bytes, int, str]] = {
    "empty argument": ([""], b"", 2, "The prompt is empty. Give some text, or --bos"),
    "empty stdin": ([], b"", 2, "The prompt is empty."),
    "only a newline": ([], b"\n", 2, "The prompt is empty."),
    "a megabyte": (
        [],
        MEGABYTE.encode(),
        2,
        "The prompt has more than 64 tokens, which the context holds.",
    ),
    "surrogate argument": (["a\udcffb"], b"", 2, "The prompt is not valid UTF-8: byte 0xff at"),
    "invalid stdin": ([], b"good \xff", 2, "stdin is not valid UTF-8: byte 0xff at offset 5."),
    "cut character": ([], "é".encode()[:1], 2, "stdin is not valid UTF-8: byte 0xc3 at offset 0."),
    "directory for -i": (["-i", "."], b"", 2, ". is a directory. Name a file."),
    "missing -i": (["-i", "none"], b"", 2, "Cannot read none: No such file or directory."),
    "stdin twice": (["-", "-"], b"x", 2, "stdin is asked for more than once."),
    "directory for -o": (["-o", ".", "x"], b"", 2, ". is a directory. Name a file."),
    "-o in no folder": (["-o", "no/file", "x"], b"", 2, "Cannot write no/file: its folder is"),
    "empty -o": (["-o", "", "x"], b"", 2, "The output file has no name."),
    "empty --stop": (["--stop", "", "x"], b"", 2, "A stop string is empty."),
    "bias without value": (["--logit-bias", "x", "x"], b"", 2, "'x' is not TOKEN=VALUE."),
    "bias no number": (["--logit-bias", "x=y", "x"], b"", 2, "'x=y' is not TOKEN=VALUE."),
    "bias nan": (["--logit-bias", "x=nan", "x"], b"", 2, "'x=nan' is not TOKEN=VALUE."),
    "bias inf": (["--logit-bias", "x=inf", "x"], b"", 2, "'x=inf' is not TOKEN=VALUE."),
    "bias no token": (["--logit-bias", "no token=1", "x"], b"", 2, "'no token' is"),
    "bias too large": (["--logit-bias", "7=1e300", "x"], b"", 2, "drive a logit to infinity."),
    "special forbidden": (["--special", "forbid", "<|endoftext|>"], b"", 2, "special token"),
    "unknown choice": (["--overflow", "wrap", "x"], b"", 2, "'wrap' is not one of 'error', 'left'"),
    "unknown option": (["--temprature", "1", "x"], b"", 2, "one of: '--temperature',"),
    "no such folder": (["-m", "./none", "x"], b"", 1, 'There is no folder "./none"'),
    "no model name": (["-m", "", "x"], b"", 2, "The model name is empty."),
    "control in a name": (["-m", "a\x1bb", "x"], b"", 2, '"a\\x1bb" holds a control character.'),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    args, stdin, code, words = CASES[case]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMCLI_MODEL", str(tiny_gpt2))
    result = CliRunner().invoke(cli, ["generate", "-n", "1", *args], input=stdin)
    assert words in result.stderr
    assert result.exit_code == code
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


ACCEPTED: dict[str, tuple[list[str], bytes, str]] = {
    "NUL": ([], b"a\x00b", "a\x00b"),
    "no valid UTF-8, replaced": (["--errors", "replace"], b"a\xffb", "a\ufffdb"),
    "a surrogate, replaced": (["--errors", "replace", "a\udcff"], b"", "a\ufffd"),
    "markup": (["[/foo] [bold]x[/bold]"], b"", "[/foo] [bold]x[/bold]"),
    "escapes": (["\x1b[2J"], b"", "\x1b[2J"),
    "like an option": (["--", "--help"], b"", "--help"),
    "a megabyte, cut": (["--overflow", "left"], MEGABYTE.encode(), MEGABYTE),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_odd_but_good_input(tiny_gpt2: Path, case: str) -> None:
    """A pipe gets it back byte for byte (rows 16, 25, 28)."""
    args, stdin, prompt = ACCEPTED[case]
    arguments = ["generate", "-m", str(tiny_gpt2), "-n", "1", "--greedy", "--echo", *args]
    result = CliRunner().invoke(cli, arguments, input=stdin)
    assert result.exit_code == 0, result.stderr
    assert result.stdout_bytes.startswith(prompt.encode("utf-8"))
    assert result.stdout_bytes.endswith(b"\n")

"""Row 21: every sampling value out of its range is refused before anything heavy is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from llmcli.cli.main import cli

WHOLE_FROM_0 = ["--min-new-tokens", "--top-k", "--no-repeat-ngram-size", "--logprobs", "--seed"]
WHOLE_FROM_1 = ["--max-new-tokens", "--num-return-sequences", "--num-beams"]
FINITE = ["--presence-penalty", "--frequency-penalty"]
SHARES = ["--top-p", "--typical-p"]


def cases() -> Iterator[tuple[str, str]]:
    for option in WHOLE_FROM_0 + WHOLE_FROM_1:
        bad = ["-1", "1.5", "nan", "inf", "", "x", "9" * 5000]
        yield from ((option, value) for value in bad[: -1 if option != "--seed" else None])
    yield from ((option, "0") for option in WHOLE_FROM_1)
    yield "--seed", str(2**63)
    for option in FINITE + SHARES + ["--temperature", "--min-p", "--repetition-penalty"]:
        yield from ((option, value) for value in ["nan", "-nan", "inf", "-inf", "1e999", "x", ""])
    for option in SHARES:
        yield from ((option, value) for value in ["0", "-0.1", "1.5", "1e-400"])
    yield from (("--min-p", value) for value in ["-0.1", "1.1"])
    yield from (("--repetition-penalty", value) for value in ["0", "-1"])
    yield "--temperature", "-0.1"


@pytest.mark.parametrize(("option", "value"), list(cases()))
def test_row_21_out_of_range(option: str, value: str) -> None:
    """Exit 2, one line, the option named; there is no such model, and nobody looked for it."""
    result = CliRunner().invoke(cli, ["generate", "-m", "./none", f"{option}={value}", "x"])
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: Invalid value for ")
    assert f"{option}'" in result.stderr
    assert "it must be" in result.stderr or "is not a" in result.stderr
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) < 400


@pytest.mark.parametrize(
    "args",
    [
        ["--stop="],
        ["--min-new-tokens=101"],
        ["--min-new-tokens=5", "--max-new-tokens=4"],
        ["--greedy", "--temperature=0.5"],
        ["--greedy", "--num-return-sequences=2"],
        ["--num-beams=2", "--num-return-sequences=3"],
        ["--num-beams=2", "--logprobs=1"],
        ["--num-beams=2", "--overflow=slide"],
    ],
    ids=" ".join,
)
def test_row_21_values_that_exclude_each_other(args: list[str]) -> None:
    result = CliRunner().invoke(cli, ["generate", "-m", "./none", *args, "x"])
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1


def test_row_21_before_a_heavy_import() -> None:
    """In a process of its own, where torch would be seen."""
    program = (
        "import sys\n"
        "from llmcli.__main__ import main\n"
        "for option in sys.argv[1:]:\n"
        "    sys.argv = ['llmcli', 'generate', option, 'x']\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as exit:\n"
        "        assert exit.code == 2, option\n"
        "assert not {'torch', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules)\n"
    )
    options = [f"{option}={value}" for option, value in cases() if len(value) < 100]
    result = subprocess.run(
        [sys.executable, "-c", program, *options],
        env={**os.environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stderr.splitlines()) == len(options)

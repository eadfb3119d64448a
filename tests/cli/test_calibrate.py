"""llmcli calibrate as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from llmcli.api import load
from llmcli.cli.main import cli
from llmcli.engine.native import library

TEXT = "The fox said to the crow: give me the cheese, and naïve café 東京. " * 12


def run(model: Path, *args: str, code: int = 0, command: str = "calibrate") -> Result:
    result = CliRunner().invoke(cli, [command, "-m", str(model), "--threads", "1", *args])
    assert result.exit_code == code, result.stderr
    return result


def test_json_agrees_with_score(tiny_gpt2: Path) -> None:
    found: dict[str, Any] = json.loads(run(tiny_gpt2, "--json", TEXT).stdout)
    score = json.loads(run(tiny_gpt2, "--json", TEXT, command="score").stdout)
    assert found["tokens"] == score["tokens"] == sum(each["tokens"] for each in found["bins"])
    assert found["nll"] == pytest.approx(score["nll_per_token"], rel=1e-5)
    assert (found["context"], found["stride"], found["bos"]) == (64, 32, True)
    assert found["model"] == str(tiny_gpt2)


def test_table_and_diagram_fit_80_columns(tiny_gpt2: Path) -> None:
    lines = run(tiny_gpt2, TEXT).stdout.splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines)
    names = [line.split("  ")[0].strip() for line in lines]
    assert {"ECE", "ACE", "smooth ECE", "Brier score", "temperature"} <= set(names)
    found = json.loads(run(tiny_gpt2, "--json", TEXT).stdout)
    assert len([line for line in lines if "█" in line or "·" in line]) >= len(found["bins"])


def test_quiet_is_the_error(tiny_gpt2: Path) -> None:
    found = json.loads(run(tiny_gpt2, "--json", TEXT).stdout)
    assert float(run(tiny_gpt2, "-q", TEXT).stdout) == pytest.approx(found["ece"], rel=1e-5)


def test_few_tokens_have_figures_but_no_fit(tiny_gpt2: Path) -> None:
    assert "no fit under 200 tokens" in run(tiny_gpt2, TEXT[:100]).stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((TEXT, "--bins", "0"), "--bins is 0. It must be from 1"),
        ((TEXT, "--holdout", "1"), "--holdout is 1.0. It must be"),
        ((TEXT, "--holdout", "nan"), "--holdout is nan. It must be"),
        (("",), "no token that can be scored"),
    ],
)
def test_bad_input(tiny_gpt2: Path, args: tuple[str, ...], message: str) -> None:
    assert message in run(tiny_gpt2, *args, code=2).stderr


@pytest.mark.parametrize("args", [["score"], ["calibrate"], ["rank", "--prompt", "The fox"]])
def test_a_prepared_model_needs_no_torch(tiny_gpt2: Path, args: list[str]) -> None:
    code = (
        "import sys\n"
        "from llmcli.__main__ import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print('seen', *({'torch', 'transformers'} & set(sys.modules)), file=sys.stderr)\n"
    )
    skip_without_kernels()
    load(str(tiny_gpt2)).decoder()  # prepares it
    command = [sys.executable, "-c", code, *args, "-q", "-m", str(tiny_gpt2), "said the crow"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stderr.splitlines()[-1] == "seen"


def skip_without_kernels() -> None:
    if library.library() is None:
        pytest.skip("no kernels here")

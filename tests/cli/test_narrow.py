"""Tables of the commands on narrow and wide terminals: names and figures stay whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len

from llmcli.cli.main import cli

pytestmark = pytest.mark.parametrize("width", [40, 80, 200])


def run(width: int, *args: str) -> Result:
    result = CliRunner(env={"COLUMNS": str(width)}).invoke(cli, args)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert max(map(cell_len, lines)) <= width
    return result


@pytest.mark.parametrize(
    ("args", "whole"),
    [
        (("models", "list"), ("fable", "14.8 MB", "bundled")),
        (("models", "show", "fable"), ("GPT2LMHeadModel", "7,098,368", "tokenizer_config.json")),
        (("config", "show"), ("trust-remote-code", "default")),
        (("templates", "list"), ("sentiment", "summarise")),
        (("encode", "-m", "fable", "--compare", "fable", "Once upon a time"), ("0.2500", "fable")),
        (
            ("classify", "-m", "fable", "--labels", "happy,incomprehensible", "I won."),
            ("happy", "incomprehensible", "%"),
        ),
    ],
    ids=lambda value: "-".join(value[:2]),
)
def test_names_and_figures_are_whole(
    width: int, args: tuple[str, ...], whole: tuple[str, ...]
) -> None:
    shown = run(width, *args).stdout
    assert "…" not in shown
    for each in whole:
        assert each in shown
    assert width == 40 or "A wider terminal" not in shown


def test_the_log_cuts_running_text_alone(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("click.get_app_dir", lambda name: str(tmp_path / name))
    run_quietly("log", "on")
    text = "The fox said to the crow that there was never such a singer in all the wood. " * 2
    run_quietly("generate", "-m", "fable", "-n", "1", "--seed", "1", text)
    shown = run(width, "log", "list").stdout
    assert shown.splitlines()[1].startswith("1 ")
    assert "The fox said" in shown
    assert "fable" in shown
    assert ("A wider terminal" in shown) is (width == 40)


def run_quietly(*args: str) -> None:
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 0, result.stderr

"""Help in sections, man pages, and what may stand in front of a command or instead of one."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from llmcli.cli.front import with_command
from llmcli.cli.help import EVERYDAY
from llmcli.cli.main import cli
from llmcli.cli.manual import man_page
from llmcli.cli.options import flag_name


def run(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, list(args))
    assert result.exit_code == code, result.stderr
    return result


def commands(group: click.Group, parent: click.Context) -> Iterator[click.Context]:
    for name, command in group.commands.items():
        context = click.Context(command, info_name=name, parent=parent)
        yield context
        if isinstance(command, click.Group):
            yield from commands(command, context)


ALL = list(commands(cli, click.Context(cli, info_name="llmcli")))


@pytest.mark.parametrize("context", ALL, ids=lambda context: context.command_path)
def test_every_option_stands_once_and_the_everyday_ones_first(context: click.Context) -> None:
    text = context.get_help()
    names = [
        flag_name(param)
        for param in context.command.get_params(context)
        if isinstance(param, click.Option) and not param.hidden
    ]
    flags = re.findall(r"^  (?:-\w, )?(--[\w-]+)", text, flags=re.MULTILINE)
    assert len(flags) == len(set(flags))
    assert len(flags) >= len(names) - 2  # -h and -V have short names in front
    everyday = [name for name in EVERYDAY if name in names]
    shown = [flag.removeprefix("--").replace("-", "_") for flag in flags]
    if not isinstance(context.command, click.Group):
        assert shown[: len(everyday)] == everyday


def test_summaries_are_whole() -> None:
    text = run("--help").stdout
    assert "..." not in text.split("Write:")[1]
    for name in cli.commands:
        assert re.search(rf"^  {name} ", text, flags=re.MULTILINE), name


def test_no_line_is_wider_than_the_terminal() -> None:
    """But for examples and the names of options, which are never cut."""
    text = CliRunner().invoke(cli, ["generate", "--help"], terminal_width=80).stdout
    wide = [line for line in text.splitlines() if len(line) > 80]
    assert [line for line in wide if not line.startswith(("    llmcli", "    cat", "  -"))] == []


def test_help_of_a_command() -> None:
    assert run("help", "models", "pull").stdout.startswith("Usage: cli models pull")
    assert "Write:" in run("help").stdout
    assert "There is no command nothing" in run("help", "nothing", code=2).stderr


def test_man_pages(tmp_path: Path) -> None:
    run("man", "--install", "--folder", str(tmp_path))
    pages = {path.name for path in tmp_path.iterdir()}
    assert {"cli.1", "cli-generate.1", "cli-models-pull.1"} <= pages
    page = run("man", "generate").stdout
    assert page == (tmp_path / "cli-generate.1").read_text()
    assert r"\fB\-n, \-\-max\-new\-tokens INTEGER|MAX\fR" in page
    if shutil.which("man"):
        command = ["man", "--warnings", "-l", str(tmp_path / "cli-generate.1")]
        done = subprocess.run(command, capture_output=True, text=True, env={"MANWIDTH": "80"})
        assert done.stderr == ""
        assert "--ignore-eos" in done.stdout
        assert "COMMON OPTIONS" in done.stdout


@pytest.mark.parametrize("context", ALL, ids=lambda context: context.command_path)
def test_no_line_of_a_page_is_taken_for_markup(context: click.Context) -> None:
    known = (".TH", ".SH", ".PP", ".TP", ".B ", ".nf", ".fi")
    for line in man_page(context).splitlines():
        assert not line.startswith((".", "'")) or line.startswith(known)


@pytest.mark.parametrize(
    ("line", "read"),
    [
        (["generate", "x"], ["generate", "x"]),
        (["-m", "fable", "generate", "x"], ["generate", "-m", "fable", "x"]),
        (["-mfable", "-q", "next", "x"], ["next", "-mfable", "-q", "x"]),
        (["--model=fable", "models", "path"], ["models", "path", "--model=fable"]),
        (["-q", "models", "path", "fable"], ["models", "path", "-q", "fable"]),
        (["Once upon a time"], ["generate", "Once upon a time"]),
        (["-n", "5", "Once"], ["generate", "-n", "5", "Once"]),
        (["-n", "5"], ["generate", "-n", "5"]),
        (["hello"], ["generate", "hello"]),
        (["-"], ["generate", "-"]),
        (["--", "-5 degrees"], ["generate", "--", "-5 degrees"]),
        (["--help"], ["--help"]),
        (["--nonsense", "x"], ["--nonsense", "x"]),
        ([], []),
    ],
)
def test_what_stands_in_front(line: list[str], read: list[str]) -> None:
    assert with_command(line, cli) == read


@pytest.mark.parametrize("word", ["genrate", "modles", "encde"])
def test_a_misspelt_command_is_no_prompt(word: str) -> None:
    result = run(word, "x", code=2)
    assert re.fullmatch(rf"Error: No such command '{word}'. Did you mean '\w+'\?\n", result.stderr)


def test_choices_near_to_what_was_given() -> None:
    stderr = run("generate", "--precision", "flaot32", "x", code=2).stderr
    assert "Did you mean 'float32'?" in stderr


def test_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples aside, which are to be copied, and options whose values take a line."""
    monkeypatch.setenv("COLUMNS", "40")
    for args in (["generate"], ["train"], ["models"], []):
        text = CliRunner().invoke(cli, [*args, "--help"]).stdout
        lines = [line for line in text.splitlines() if not re.match(r"    \w|  -\S+, ", line)]
        lines = [line for line in lines if not re.match(r"  -.*[\]}]$", line)]
        assert [line for line in lines if len(line) > 40] == []

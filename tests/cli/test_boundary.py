"""Every error and signal becomes one line on stderr and the contract's status."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from llmcli import errors
from llmcli.cli.boundary import Group, InterruptFlag
from llmcli.terminal.console import Console


class Panic(BaseException):
    """As a native library raises it: no Exception."""


def run(action: Callable[[], Any], *args: str) -> Result:
    @click.group(cls=Group)
    def group() -> None:
        """A group."""

    @group.command()
    @click.option("--debug", is_flag=True)
    @click.option("--size", type=click.Choice(["small", "large"]))
    def work(debug: bool, size: str) -> None:
        action()

    return CliRunner().invoke(group, ["work", *args])


def raising(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        Console().line("already made")
        raise error

    return action


CASES = [
    (errors.LlmcliError("It is wrong.", "Mend it."), 1, "It is wrong. Mend it."),
    (errors.InvalidInput("It is wrong.", "Mend it."), 2, "It is wrong. Mend it."),
    (errors.GateFailed("Too high."), 3, "Too high."),
    (errors.BatchHadErrors("2 of 3 failed."), 4, "2 of 3 failed."),
    (errors.StorageError("No space."), 1, "No space."),
    (click.UsageError("no such thing"), 2, "no such thing."),
    (click.ClickException("plain"), 1, "plain."),
    (click.FileError("f", hint="why"), 1, "Could not open file 'f': why."),
    (MemoryError(), 1, "Out of memory. Use a smaller model, batch or --precision."),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "Out of memory ("),
    (OSError(28, "No space left on device", "out.txt"), 1, "out.txt: No space left on device."),
    (Panic("native"), 1, "Unexpected Panic: native. Run again with --debug"),
    (ZeroDivisionError("two\nlines \x1b[2J"), 1, "Unexpected ZeroDivisionError: two\\nlines \\x1b"),
]


@pytest.mark.parametrize(("error", "code", "line"), CASES, ids=lambda v: repr(v)[:40])
def test_one_line_and_a_status(error: BaseException, code: int, line: str) -> None:
    result = run(raising(error))
    assert result.exit_code == code
    assert result.stderr.startswith(f"Error: {line}")
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith("\n")
    assert result.stdout == "already made\n"


def test_row_34_a_panic_is_an_error_and_no_traceback() -> None:
    result = run(raising(Panic("called `Option::unwrap()` on a `None` value")))
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("how", ["--debug", "environment"])
def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "environment":
        monkeypatch.setenv("LLMCLI_DEBUG", "1")
    result = run(raising(errors.InvalidInput("Wrong.")), *(["--debug"] if how == "--debug" else []))
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.endswith("Error: Wrong.\n")
    assert result.exit_code == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_ctrl_c_is_130_and_silent(error: BaseException) -> None:
    result = run(raising(error))
    assert (result.exit_code, result.stderr) == (130, "")
    assert result.stdout == "already made\n"


def test_row_01_a_closed_pipe_is_141_and_silent() -> None:
    result = run(raising(BrokenPipeError(32, "Broken pipe")))
    assert (result.exit_code, result.stderr) == (141, "")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--nothing"], "No such option"),
        (["--size", "small", "x"], "unexpected extra argument (x)"),
        (["--size", "medium"], "'medium' is not one of 'small', 'large'."),
    ],
)
def test_usage_errors_name_the_help(args: list[str], words: str) -> None:
    result = run(lambda: None, *args)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith(" Try 'group work --help'.\n")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_row_07_signals_unwind_the_stack(number: signal.Signals, status: int) -> None:
    cleaned = []

    def action() -> None:
        try:
            signal.raise_signal(number)
        finally:
            cleaned.append(True)

    before = signal.signal(number, signal.SIG_DFL)  # it may be ignored here, as under nohup
    try:
        result = run(action)
    finally:
        signal.signal(number, before)
    assert cleaned == [True]
    assert result.exit_code == status
    assert result.stderr == ""


def test_what_was_ignored_stays_ignored() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        result = run(lambda: signal.raise_signal(signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert result.exit_code == 0


def test_handlers_are_given_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    assert run(lambda: None).exit_code == 0
    assert [signal.getsignal(number) for number in numbers] == before


def test_the_interrupt_flag() -> None:
    before = signal.getsignal(signal.SIGINT)
    flag = InterruptFlag()
    with flag:
        assert not flag()
    assert signal.getsignal(signal.SIGINT) is before
    try:
        with flag:
            signal.raise_signal(signal.SIGINT)
            assert flag()
        assert signal.getsignal(signal.SIGINT) is not before, "the second one must leave at once"
    finally:
        signal.signal(signal.SIGINT, before)

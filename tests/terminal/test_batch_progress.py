"""How far a batch is: drawn over on a terminal, a line a minute in a pipe, a line at the end."""

from __future__ import annotations

import pytest

from llmcli.terminal.console import Console
from llmcli.terminal.progress import BatchProgress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(console: Console, output: str | None, *, seconds: float, total: int | None) -> None:
    """Twelve records after three that were there, one every so many seconds."""
    clock = Clock()
    with BatchProgress(console, output, clock=clock) as progress:
        progress.begin(total, 3, 1)
        for number in range(12):
            clock.now += seconds
            progress.note(tokens=40, failed=int(number == 4))


def test_a_pipe_gets_a_line_a_minute_and_one_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    run(Console(), "out.jsonl", seconds=20, total=75)
    assert capsys.readouterr().err.splitlines() == [
        "6 of 75 records, 1 errors, 0.1 records/s, 2 tokens/s, 0:23:00 left",
        "9 of 75 records, 2 errors, 0.1 records/s, 2 tokens/s, 0:22:00 left",
        "12 of 75 records, 2 errors, 0.1 records/s, 2 tokens/s, 0:21:00 left",
        "15 of 75 records, 2 errors, 0.1 records/s, 2 tokens/s, 0:20:00 left",
        "15 of 75 records, 2 errors, 0.1 records/s, 2 tokens/s: out.jsonl",
    ]


@pytest.mark.parametrize("columns", [40, 80])
def test_a_terminal_has_one_line_that_fits_and_goes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    console = Console()
    console.stderr_is_terminal = True
    run(console, "out.jsonl", seconds=0.5, total=None)
    *drawn, last = capsys.readouterr().err.split("\r")
    assert len(drawn) == 1 + 12  # nothing before the first
    shown = [line.removesuffix("\x1b[K") for line in drawn[1:]]
    assert shown[-1] == "15 records, 2 errors, 2.0 records/s, 80 tokens/s"[: columns - 1]
    assert last == "\x1b[K15 records, 2 errors, 2.0 records/s, 80 tokens/s: out.jsonl\n"


def test_rows_on_the_terminal_are_their_own_progress(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = Console()
    run(console, None, seconds=30, total=None)
    console.stderr_is_terminal = console.stdout_is_terminal = True
    run(console, None, seconds=30, total=None)
    assert capsys.readouterr().err == ""
    console.stdout_is_terminal = False  # > FILE
    run(console, None, seconds=30, total=None)
    drawn = capsys.readouterr().err
    assert drawn.startswith("\r4 records, 1 errors, 0.0 records/s, 1 tokens/s\x1b[K")
    assert drawn.endswith("\r\x1b[K")


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True)
    console.stderr_is_terminal = True
    run(console, "out.jsonl", seconds=90, total=75)
    assert capsys.readouterr().err == ""

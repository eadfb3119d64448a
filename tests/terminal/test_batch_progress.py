"""How far a batch is: drawn over on a terminal, a line a minute in a pipe, a line at the end."""

from __future__ import annotations

import pytest

from llmcli.terminal.console import Console
from llmcli.terminal.progress import BatchProgress, count_progress
from llmcli.terminal.status import STATUS


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
    assert not STATUS.enabled
    assert capsys.readouterr().err.splitlines() == [
        "6 of 75 records, 1 errors, 0.1 records/s, 2 tokens/s, 0:23:00 left",
        "9 of 75 records, 2 errors, 0.1 records/s, 2 tokens/s, 0:22:00 left",
        "12 of 75 records, 2 errors, 0.1 records/s, 2 tokens/s, 0:21:00 left",
        "15 of 75 records, 2 errors, 0.1 records/s, 2 tokens/s, 0:20:00 left",
        "15 of 75 records, 2 errors, 0.1 records/s, 2 tokens/s: out.jsonl",
    ]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the status line is told; empty where it is cleared."""
    said: list[str] = []
    monkeypatch.setattr(STATUS, "enabled", False)
    monkeypatch.setattr(STATUS, "say", said.append)
    monkeypatch.setattr(STATUS, "clear", lambda: said.append(""))
    return said


@pytest.mark.parametrize("output", ["out.jsonl", None])
def test_a_terminal_has_one_line_that_goes(
    capsys: pytest.CaptureFixture[str], shown: list[str], output: str | None
) -> None:
    console = Console()
    console.stderr_is_terminal = True
    run(console, output, seconds=0.5, total=None)
    lines = [line for line in shown if line]
    assert STATUS.enabled
    assert len(lines) == 1 + 12
    assert lines[0] == "3 records, 1 errors"
    assert lines[-1] == "15 records, 2 errors, 2.0 records/s, 80 tokens/s"
    assert shown[-1] == ""
    last = f"{lines[-1]}: out.jsonl\n" if output else ""
    assert capsys.readouterr().err == last


def test_counts_tell_how_long_it_takes(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcli.terminal.progress.time.monotonic", iter([0.0, 2.0, 4.0]).__next__)
    console = Console()
    console.stderr_is_terminal = True
    with count_progress(console, "pairs", 8) as show:
        show(2)
        show.total = None
        show(4, more="all good")
    assert [line for line in shown if line] == [
        "0 pairs",
        "25%, 2 pairs, 1 a second, 0:00:06 left",
        "4 pairs, 1 a second, all good",
    ]
    assert shown[-1] == ""


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True)
    console.stderr_is_terminal = True
    run(console, "out.jsonl", seconds=90, total=75)
    assert not STATUS.enabled
    assert capsys.readouterr().err == ""

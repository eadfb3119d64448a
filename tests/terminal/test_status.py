"""What is being done, in a real terminal and nowhere else."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr

import pytest

from llmcli.reporting import listen, silent, working
from llmcli.terminal.status import Status


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcli.terminal.status._PATIENCE", 0.0)
    monkeypatch.setattr("llmcli.terminal.status._TICK", 0.001)


@pytest.fixture
def status() -> Iterator[Status]:
    status = Status()
    status.enabled = True
    yield status
    status.clear()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_line_that_goes_away(status: Status) -> None:
    with redirect_stderr(io.StringIO()) as stderr:
        status.say("loading fable: pack weights")
        wait_for(lambda: "pack weights" in stderr.getvalue())
        assert re.search(r"\rloading fable: pack weights \(\d+ s\)\x1b\[K", stderr.getvalue())
        status.say("reading the prompt\x1b[2J")
        wait_for(lambda: "reading" in stderr.getvalue())
        status.clear()
        assert stderr.getvalue().endswith("\r\x1b[K")
        assert "\x1b[2J" not in stderr.getvalue()
        before = stderr.getvalue()
        status.clear()
        assert stderr.getvalue() == before


def test_it_fits_the_terminal(status: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    with redirect_stderr(io.StringIO()) as stderr:
        status.say("one two three four five six")
        wait_for(lambda: "one two" in stderr.getvalue())
        assert "\rone two three four \x1b[K" in stderr.getvalue()
        status.clear()


def test_nothing_where_nobody_watches(status: Status) -> None:
    status.enabled = False
    status.say("loading")
    assert status._thread is None


def test_what_is_quick_is_not_told(status: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcli.terminal.status._PATIENCE", 1000.0)
    with redirect_stderr(io.StringIO()) as stderr:
        status.say("loading")
        thread = status._thread
        status.clear()
        assert thread is not None
        thread.join(20)
        assert stderr.getvalue() == ""


def test_one_listens() -> None:
    heard: list[str] = []
    listen(heard.append)
    working("one")
    listen(silent)
    working("two")
    assert heard == ["one"]

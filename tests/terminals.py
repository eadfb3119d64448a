"""Streams for tests of the output layer: a terminal's or a pipe's, kept in memory."""

from __future__ import annotations

import io
from typing import Any

import pytest


class Bytes(io.BytesIO):
    """Keeps what is written; fails with ``error`` when there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is not None:
            raise self.error
        return super().write(data)


class Stream(io.TextIOWrapper):
    """A text stream that says whether it is a terminal."""

    def __init__(self, *, terminal: bool) -> None:
        self.raw_bytes = Bytes()
        self.terminal = terminal
        super().__init__(self.raw_bytes, encoding="utf-8", newline="\n")

    def isatty(self) -> bool:
        return self.terminal

    def value(self) -> str:
        self.flush()
        return self.raw_bytes.getvalue().decode("utf-8")


def redirect(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> tuple[Stream, Stream]:
    """Put new streams in the place of stdout and stderr."""
    out, err = Stream(terminal=terminal), Stream(terminal=terminal)
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    if terminal:
        monkeypatch.setenv("TERM", "xterm-256color")
    return out, err

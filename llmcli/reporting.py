"""How work tells what it is doing, whoever listens."""

from __future__ import annotations

from collections.abc import Callable

Notify = Callable[[str], None]
"""Called with a sentence that whoever started the work should read."""

Progress = Callable[[str, int, int | None], None]
"""Called with a file's name, the bytes there so far, and its whole size if known."""


def silent(message: str) -> None:
    """A :data:`Notify` that says nothing."""

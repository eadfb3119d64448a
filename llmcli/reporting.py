"""How work tells what it is doing, whoever listens."""

from __future__ import annotations

from collections.abc import Callable

Notify = Callable[[str], None]
"""Called with a sentence that whoever started the work should read."""

Progress = Callable[[str, int, int | None], None]
"""Called with a file's name, the bytes there so far, and its whole size if known."""


_listener: list[Notify] = []


def listen(listener: Notify) -> None:
    """Let a listener hear what this process is doing: the one there was before hears no more."""
    _listener[:] = [listener]


def working(step: str) -> None:
    """Tell whoever listens what is being done now, such as "loading gpt2: pack weights"."""
    for listener in _listener:
        listener(step)


def silent(message: str) -> None:
    """A :data:`Notify` that says nothing."""

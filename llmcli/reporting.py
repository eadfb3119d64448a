"""How work tells what it is doing, whoever listens."""

from __future__ import annotations

from collections.abc import Callable

Notify = Callable[[str], None]
"""Called with a sentence that whoever started the work should read."""

Progress = Callable[[str, int, int | None], None]
"""Called with a file's name, the bytes there so far, and its whole size if known."""


_listener: list[Notify] = []
_clock: list[Notify] = []


def listen(listener: Notify, clock: Notify | None = None) -> None:
    """Let a listener hear what this process is doing: the one there was before hears no more.

    Args:
        listener: Told of what takes long, to say so.
        clock: Told of every step, to take its time; None for the one there is.
    """
    _listener[:] = [listener]
    if clock is not None:
        _clock[:] = [clock]


def working(step: str) -> None:
    """Tell whoever listens what is being done now, such as "loading gpt2: pack weights"."""
    for listener in (*_listener, *_clock):
        listener(step)


def turning_to(step: str) -> None:
    """Another step begins, of which the terminal hears otherwise, such as by its results."""
    for clock in _clock:
        clock(step)


def silent(message: str) -> None:
    """A :data:`Notify` that says nothing."""

"""Continuations as they stream: text to a pipe, tints on a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from llmcli.engine.params import TokenEvent
from llmcli.terminal.console import DIM, Console

# Colours of the 256-colour cube from likely (green) to unlikely (red), by probability.
_TINTS = ((0.5, 71), (0.2, 143), (0.05, 179), (0.01, 173))
_LEAST_LIKELY = 167


def _tint(logprob: float) -> int:
    probability = math.exp(logprob)
    return next((color for least, color in _TINTS if probability >= least), _LEAST_LIKELY)


def tint_sgr(logprob: float) -> str:
    """The SGR colour of a token with this log-probability (nats)."""
    return f"38;5;{_tint(logprob)}"


def tint_style(logprob: float) -> str:
    """The same as a rich style."""
    return f"color({_tint(logprob)})"


def write_stream(
    console: Console, events: Iterable[TokenEvent], *, prompt: str | None, end: str
) -> Iterator[TokenEvent]:
    """Write each event's text as it comes, and pass the event on.

    Args:
        console: Where to.
        events: What the engine tells.
        prompt: Shown (dim on a terminal) before each continuation; None for nothing.
        end: Written after each continuation.
    """
    fresh = True
    for event in events:
        if fresh and prompt:
            console.write(prompt, sgr=DIM)
        fresh = event.finish_reason is not None
        if event.text:
            tinted = tint_sgr(event.logprob) if event.logprob is not None else ""
            console.write(event.text, sgr=tinted)
        if fresh:
            console.write_raw(end)
        if event.text or fresh:
            console.flush()
        yield event

"""Continuations as they stream: text to a pipe, tints on a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from llmcli.engine.params import SamplingParams, TokenEvent
from llmcli.io.files import atomic_write
from llmcli.io.json_line import to_json
from llmcli.tasks.generate import Continuation
from llmcli.tasks.generate_answer import generate_answer
from llmcli.tasks.provenance import Described
from llmcli.tasks.statistics import GenerationStats
from llmcli.terminal.console import DIM, Console

M = TypeVar("M", bound=Described)

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


@dataclass(frozen=True, kw_only=True)
class GenerateView(Generic[M]):
    """Shows continuations: text as it comes, or a JSON line each, on stdout or in a file.

    Attributes:
        console: Where to.
        model: What continues.
        params: The settings.
        stats: Counts what passes.
        end: Written after each text.
        echo: Whether the prompt is shown too; None for on a terminal alone.
        output: A file instead of stdout, which appears when it is whole.
    """

    console: Console
    model: M
    params: SamplingParams
    stats: GenerationStats
    end: str = "\n"
    echo: bool | None = None
    output: Path | None = None

    def one(self, continuation: Continuation, prompt: str) -> None:
        """Show the continuations of one prompt."""
        self.stats.prompt_tokens = continuation.prompt_tokens
        events = self.stats.watch(continuation.events)

        def show_json() -> None:
            with self._lines() as write:
                collected: list[TokenEvent] = []
                for event in events:
                    collected.append(event)
                    if event.finish_reason is not None:
                        write(self._answer(prompt, continuation.prompt_tokens, collected))
                        collected.clear()

        def show_text() -> None:
            if self.output is not None:
                self._write_file(self.output, events, prompt if self.echo else "")
                return
            echo = self.console.stdout_is_terminal if self.echo is None else self.echo
            shown = prompt if echo else None
            for _ in write_stream(self.console, events, prompt=shown, end=self.end):
                pass

        self.console.choose(json=show_json, text=show_text)()

    def show_stats(self) -> None:
        """Print what was counted, on stderr."""
        timings, verbose = self.model.timings, self.console.verbose
        self.console.say(self.stats.summary(timings, detailed=verbose))

    def _answer(self, prompt: str, prompt_tokens: int, events: list[TokenEvent]) -> dict[str, Any]:
        echo = bool(self.echo)
        return generate_answer(
            self.model, self.params, prompt, prompt_tokens, events, echo=echo
        ).to_dict()

    @contextmanager
    def _lines(self) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Give what writes a JSON line, to stdout or to the file."""
        if self.output is None:
            yield self.console.record
            return
        with atomic_write(self.output) as file:

            def write(record: dict[str, Any]) -> None:
                file.write((to_json(record) + "\n").encode("utf-8"))

            yield write

    def _write_file(self, path: Path, events: Iterable[TokenEvent], prompt: str) -> None:
        with atomic_write(path) as file:
            fresh = True
            for event in events:
                shown = prompt if fresh else ""
                fresh = event.finish_reason is not None
                file.write((shown + event.text + (self.end if fresh else "")).encode("utf-8"))

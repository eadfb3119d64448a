"""Continuations as they stream: text to a pipe, tints on a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from llmcli.terminal.console import Console
from llmcli.terminal.next import percent, quoted
from llmcli.terminal.palette import DIM, surprisal_legend, surprisal_sgr
from llmcli.terminal.table import Column, Table

M = TypeVar("M", bound=Described)


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
            bits = None if event.logprob is None else -event.logprob / math.log(2)
            console.write(event.text, sgr=surprisal_sgr(bits))
        if fresh:
            console.write_raw(end)
        if event.text or fresh:
            console.flush()
        yield event


def alternatives_table(drawn: Sequence[TokenEvent], token_bytes: Callable[[int], bytes]) -> Table:
    """Draw a row for each token: its probability, and the likeliest ones with theirs."""
    most = max(len(event.top) for event in drawn)
    table = Table(
        Column("token"),
        Column("probability", "number"),
        *([Column("likeliest", "wrapped")] if most else []),
        *(Column(f"{place}.", rank=place) for place in range(2, most + 1)),
    )
    for event in drawn:
        likely = [f"{quoted(token_bytes(top.id))} {_chance(top.logprob)}" for top in event.top]
        likely += [""] * (most - len(likely))
        table.add(quoted(event.token_bytes), _chance(event.logprob), *likely)
    return table


def _chance(logprob: float | None) -> str:
    return "–" if logprob is None else percent(math.exp(logprob))


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
        html: A page of the tokens, beside that.
    """

    console: Console
    model: M
    params: SamplingParams
    stats: GenerationStats
    end: str = "\n"
    echo: bool | None = None
    output: Path | None = None
    html: Path | None = None

    def one(self, continuation: Continuation, prompt: str) -> None:
        """Show the continuations of one prompt."""
        self.stats.prompt_tokens = continuation.prompt_tokens
        self.stats.threads = continuation.threads
        events = self.stats.watch(continuation.events)
        if self.html is not None:
            events = self._paged(self.html, events, prompt, continuation.prompt_tokens)

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
            explained = self.params.logprobs is not None and self.console.stdout_is_terminal
            drawn: list[TokenEvent] = []
            for event in write_stream(self.console, events, prompt=shown, end=self.end):
                if explained and event.token_id is not None:
                    drawn.append(event)
                if drawn and event.finish_reason is not None:
                    self._explain(drawn)
                    drawn.clear()

        self.console.choose(json=show_json, text=show_text)()
        if (why := self.stats.slowness(self.model)) is not None:
            self.console.notice(why)

    def _paged(
        self, path: Path, events: Iterable[TokenEvent], prompt: str, prompt_tokens: int
    ) -> Iterator[TokenEvent]:
        """Pass the events on, and write a page of them."""
        from llmcli.terminal.tokens_page import TokensPage, about_generated, drawn_token

        answers: list[dict[str, Any]] = []
        with atomic_write(path) as file:
            page = TokensPage(file.write)
            collected: list[TokenEvent] = []
            for event in events:
                collected.append(event)
                if event.token_id is not None:
                    page.add(drawn_token(event, self.model.token_bytes), len(answers))
                if event.finish_reason is not None:
                    answers.append(self._answer(prompt, prompt_tokens, collected))
                    collected.clear()
                yield event
            page.finish(about_generated(answers, before=prompt))

    def _explain(self, drawn: Sequence[TokenEvent]) -> None:
        """Say what the tints mean, and what else was likely in each token's place."""
        if self.console.color_stdout:
            self.console.write_raw("\n" + surprisal_legend(self.console.width) + "\n")
        if self.params.logprobs:
            self.console.line()
            self.console.render(alternatives_table(drawn, self.model.token_bytes))

    def show_stats(self) -> None:
        """Print what was counted, on stderr."""
        self.console.say(self.stats.summary(self.model.timings))

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

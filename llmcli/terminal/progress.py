"""Progress bars on stderr, only where a person watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, Self

from llmcli.reporting import Progress
from llmcli.terminal.console import Console
from llmcli.terminal.status import STATUS

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from llmcli.scoring.statistics import Tally
    from llmcli.scoring.token_scores import TokenScores
    from llmcli.scoring.windows import Window

Steps = Callable[[str, int, int], None]


@contextmanager
def download_progress(console: Console) -> Iterator[Progress | None]:
    """Give a callback that draws a bar for each file: size, rate, time left.

    None where stderr is no terminal or ``--quiet`` was given. Nothing is imported or drawn
    before the first call, so a cached model costs nothing.
    """
    if not console.shows_progress:
        yield None
        return
    bars: list[Bars] = []
    tasks: dict[str, int] = {}

    def show(name: str, done: int, total: int | None) -> None:
        STATUS.clear()
        if not bars:
            bars.append(_transfer_bar(console))
        bar = bars[0]
        if name not in tasks:
            tasks[name] = bar.add_task("", total=total, name=name)
        bar.update(tasks[name], completed=done, total=total)  # type: ignore[arg-type]

    try:
        yield show
    finally:
        for bar in bars:
            bar.stop()


@contextmanager
def step_progress(console: Console) -> Iterator[Steps | None]:
    """Give a callback that draws what is being done and how far it is; it goes at the end.

    None where stderr is no terminal or ``--quiet`` was given.
    """
    if not console.shows_progress:
        yield None
        return
    from rich.console import Console as RichConsole
    from rich.progress import Progress as Bars

    stderr = RichConsole(stderr=True, no_color=not console.color_stderr)
    with Bars(console=stderr, transient=True) as bars:
        task = bars.add_task("", visible=False)

        def show(name: str, done: int, total: int) -> None:
            STATUS.clear()
            bars.update(task, description=name, completed=done, total=total, visible=True)

        yield show


@contextmanager
def count_progress(console: Console, what: str) -> Iterator[Callable[[int], None]]:
    """Give a callback that draws how many of something are done; the line goes at the end.

    Nothing is drawn where stderr is no terminal or ``--quiet`` was given.
    """
    if not console.shows_progress:
        yield lambda count: None
        return
    start = shown = time.monotonic()

    def show(count: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= 0.2:
            shown = now
            line = f"{count:,} {what}, {count / (now - start):,.0f} a second"
            console.say(f"\r{line[: console.width - 1]}\x1b[K", end="")

    try:
        yield show
    finally:
        if shown > start:
            console.say("\r\x1b[K", end="")


class Watched(Protocol):
    """Scoring that is watched: its sums grow as windows are scored."""

    total: Tally


@contextmanager
def score_progress(
    console: Console, scoring: Watched
) -> Iterator[Callable[[Window, TokenScores], None]]:
    """Give a callback for scored windows that keeps a line on stderr up to date.

    Nothing is drawn where stderr is no terminal or ``--quiet`` was given.
    """
    if not console.shows_progress:
        yield lambda window, scores: None
        return
    from rich.console import Console as RichConsole
    from rich.progress import Progress as Bars
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    bar = Bars(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=RichConsole(stderr=True, no_color=not console.color_stderr),
        transient=True,
    )
    STATUS.clear()
    task = bar.add_task("scoring", total=None)
    start = time.monotonic()
    seen = 0

    def show(window: Window, scores: TokenScores) -> None:
        nonlocal seen
        seen += window.scored
        total = scoring.total
        if total.weight:
            rate = seen / (time.monotonic() - start)
            score = total.score(interval=False)
            sofar = f"{'pseudo-' if score.pseudo else ''}perplexity so far {score.perplexity:.4g}"
            bar.update(
                task,
                description=f"{seen:,} tokens, {rate:,.0f} tokens/s, {sofar}",
            )

    with bar:
        yield show


def _transfer_bar(console: Console) -> Bars:
    from rich.console import Console as RichConsole
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    bar = Bars(
        TextColumn("{task.fields[name]}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=RichConsole(stderr=True, no_color=not console.color_stderr),
        transient=True,
    )
    bar.start()
    return bar


class BatchProgress:
    """How far a batch is: a line that is drawn over on a terminal, one a minute else.

    Args:
        console: Where it is said.
        output: The file that rows go to. Without one they go to stdout, and no more is said
            than a line on a terminal that is not stdout's.
    """

    def __init__(
        self,
        console: Console,
        output: str | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._output = output
        self._clock = clock
        self._total: int | None = None
        self._skipped = self._done = self._failed = self._tokens = 0
        self._live = console.shows_progress and not (output is None and console.stdout_is_terminal)
        self._drawn = False
        self._started = self._shown = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._drawn:
            self._console.say("\r\x1b[K", end="")
        if self._output is not None and (self._done or self._skipped):
            self._console.info(f"{self._line()}: {self._output}")

    def begin(self, total: int | None, done: int, failed: int = 0) -> None:
        """So many records there are, if that is known; so many are there, some with an error."""
        self._total, self._skipped, self._failed = total, done, failed
        self._started = self._shown = self._clock()

    def note(self, *, tokens: int, failed: int, records: int = 1) -> None:
        """Records are done.

        Args:
            tokens: How many they took.
            failed: How many of them are error records.
            records: How many they are.
        """
        self._done += records
        self._failed += failed
        self._tokens += tokens
        now = self._clock()
        if now - self._shown < (0.2 if self._live else 60.0):
            return
        self._shown = now
        if self._live:
            self._drawn = True
            line = self._line(now)[: self._console.width - 1]
            self._console.say(f"\r{line}\x1b[K", end="")
        elif self._output is not None:
            self._console.info(self._line(now))

    def _line(self, now: float | None = None) -> str:
        seconds = max((now or self._clock()) - self._started, 1e-9)
        at = self._skipped + self._done
        known = self._total if self._total and at <= self._total else None
        parts = [f"{at:,} of {known:,} records" if known else f"{at:,} records"]
        if self._failed:
            parts.append(f"{self._failed:,} errors")
        if self._done:
            rates = f"{self._done / seconds:.1f} records/s"
            tokens = f", {self._tokens / seconds:.0f} tokens/s" if self._tokens else ""
            parts.append(rates + tokens)
        if now is not None and known and self._done:
            left = round((known - at) * seconds / self._done)
            parts.append(f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left")
        return ", ".join(parts)

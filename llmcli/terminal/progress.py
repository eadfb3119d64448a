"""Progress bars on stderr, only where a person watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, Self

from llmcli.reporting import Progress, turning_to
from llmcli.terminal.console import Console
from llmcli.terminal.status import STATUS

if TYPE_CHECKING:
    from rich.progress import BarColumn
    from rich.progress import Progress as Bars

    from llmcli.scoring.statistics import Tally
    from llmcli.scoring.token_scores import TokenScores
    from llmcli.scoring.windows import Window
    from llmcli.tokenization.tokenizer import Tokenizer

WIDE = 90  # columns from which a progress line has a bar, too
_MEDIUM = 60  # columns from which a download says how fast it is

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
    from rich.progress import TaskProgressColumn, TextColumn, TimeRemainingColumn

    stderr = RichConsole(stderr=True, no_color=not console.color_stderr)
    with Bars(
        TextColumn("{task.description}", markup=False),
        *bar_columns(console),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=stderr,
        transient=True,
    ) as bars:
        task = bars.add_task("", visible=False)

        def show(name: str, done: int, total: int) -> None:
            STATUS.clear()
            bars.update(task, description=name, completed=done, total=total, visible=True)

        yield show


def time_left(seconds: float) -> str:
    """How a duration that is expected is written."""
    left = round(seconds)
    return f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"


class Count:
    """How many of something are done, on the status line.

    Attributes:
        what: What they are.
        total: How many there will be, about; None where nobody knows.
    """

    def __init__(self, what: str, total: float | None = None) -> None:
        self.what = what
        self.total = total
        self._started = time.monotonic()

    def __call__(self, count: int, *, more: str = "") -> None:
        """So many are done now; ``more`` is what else there is to say."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        parts = [f"{count:,} {self.what}", f"{count / seconds:,.0f} a second"]
        if self.total and count:
            share = min(count / self.total, 1.0)
            parts.insert(0, f"{share:.0%}")
            parts.append(time_left(seconds / share - seconds))
        STATUS.say(", ".join([*parts, more] if more else parts))


@contextmanager
def count_progress(console: Console, what: str, total: float | None = None) -> Iterator[Count]:
    """Give a callback that draws how many of something are done; the line goes at the end.

    Nothing is drawn where stderr is no terminal or ``--quiet`` was given.
    """
    STATUS.enabled = console.shows_progress
    count = Count(what, total)
    STATUS.say(f"0 {what}")
    turning_to(f"going through {what}")
    try:
        yield count
    finally:
        STATUS.clear()


class Watched(Protocol):
    """Scoring that is watched: its sums grow as windows are scored."""

    total: Tally
    tokenizer: Tokenizer


@contextmanager
def score_progress(
    console: Console, scoring: Watched, size: int | None = None
) -> Iterator[Callable[[Window, TokenScores], None]]:
    """Give a callback for scored windows that keeps the status line up to date.

    Args:
        console: Where it is drawn, if it is.
        scoring: What is watched.
        size: How many bytes there are to score; None where nobody knows.
    """
    seen = done = 0

    def show(window: Window, scores: TokenScores) -> None:
        nonlocal seen, done
        if not console.shows_progress:
            return
        seen += window.scored
        done += sum(len(scoring.tokenizer.token_bytes(id)) for id in window.tokens[window.first :])
        count.total = None if size is None or not done else size * seen / done
        more = ""
        if scoring.total.weight:
            score = scoring.total.score(interval=False)
            more = f"{'pseudo-' if score.pseudo else ''}perplexity so far {score.perplexity:.4g}"
        count(seen, more=more)

    with count_progress(console, "tokens") as count:
        yield show


def bar_columns(console: Console) -> list[BarColumn]:
    """The bar of a progress line, where there is room for one beside what it says."""
    from rich.progress import BarColumn

    return [BarColumn(bar_width=20)] if console.width >= WIDE else []


def _transfer_bar(console: Console) -> Bars:
    from rich.console import Console as RichConsole
    from rich.progress import (
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    bar = Bars(
        TextColumn("{task.fields[name]}", markup=False),
        *bar_columns(console),
        DownloadColumn(),
        *([TransferSpeedColumn(), TimeRemainingColumn()] if console.width >= _MEDIUM else []),
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
            than the line on a terminal.
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
        self._live = STATUS.enabled = console.shows_progress
        self._started = self._shown = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        STATUS.clear()
        if self._output is not None and (self._done or self._skipped):
            self._console.info(f"{self._line()}: {self._output}")

    def begin(self, total: int | None, done: int, failed: int = 0) -> None:
        """So many records there are, if that is known; so many are there, some with an error."""
        self._total, self._skipped, self._failed = total, done, failed
        self._started = self._shown = self._clock()
        turning_to("going through records")
        if self._live:
            STATUS.say(self._line())

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
        if self._live:
            STATUS.say(self._line(now))
        elif self._output is not None and now - self._shown >= 60.0:
            self._shown = now
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
            parts.append(time_left((known - at) * seconds / self._done))
        return ", ".join(parts)

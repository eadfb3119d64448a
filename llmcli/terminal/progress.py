"""Progress bars on stderr, only where a person watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llmcli.reporting import Progress
from llmcli.terminal.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

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
            bars.update(task, description=name, completed=done, total=total, visible=True)

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

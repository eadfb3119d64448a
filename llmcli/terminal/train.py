"""A training run as a person sees it (a bar, now and then a line), and as a pipe gets it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llmcli.reporting import listen
from llmcli.terminal.console import Console
from llmcli.terminal.progress import WIDE, bar_columns
from llmcli.terminal.status import STATUS

if TYPE_CHECKING:
    from rich.progress import Progress


_BESIDE = 15  # columns that percentage and time left take beside a state


class TrainingView:
    """Shows the records of ``metrics.jsonl`` on stderr.

    On a terminal a bar follows every record; each evaluation is one line everywhere.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Progress | None = None
        self._latest: dict[str, Any] = {}

    @property
    def _room(self) -> int:
        """Columns for the state beside percentage, time left and, where it is wide, a bar."""
        width = self.console.width
        return width - _BESIDE - (22 if width >= WIDE else 0)

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Take one record."""
        self._latest |= record
        if "sample" in record:
            self.console.info(f"  sample: {record['sample']!r}")
        elif "validation_loss" in record:
            self.console.info(_evaluation(self._latest))
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0],
                completed=record["progress"],
                description=_state(self._latest, self._room),
            )

    @contextmanager
    def shown(self) -> Iterator[TrainingView]:
        """Draw the bar while inside, where stderr is a terminal."""
        if not self.console.shows_progress:
            yield self
            return
        self._bar = bar = _progress_bar(self.console)
        listen(lambda step: bar.update(bar.task_ids[0], description=step))
        try:
            with bar:
                yield self
        finally:
            self._bar = None
            listen(STATUS.say)


def _state(latest: Mapping[str, Any], room: int) -> str:
    """Where training is, in so many columns: what has no room is left out, not cut."""
    shown = f"step {latest['step']:,}"
    for name, label, shape in (
        ("loss", "loss", ".3f"),
        ("validation_perplexity", "val. ppl", ",.1f"),
        ("tokens_per_second", "tok/s", ",.0f"),
    ):
        if name in latest:
            part = f"  {label} {latest[name]:{shape}}"
            shown += part if len(shown) + len(part) <= room else ""
    return shown


def _evaluation(latest: Mapping[str, Any]) -> str:
    loss = f"loss {latest['loss']:.4f}  " if "loss" in latest else ""
    rate = f"  {latest['tokens_per_second']:,.0f} tok/s" if "tokens_per_second" in latest else ""
    return (
        f"step {latest['step']}  {latest['progress']:.1%}  {loss}"
        f"validation {latest['validation_loss']:.4f}  "
        f"perplexity {latest['validation_perplexity']:,.2f}  "
        f"bits/byte {latest['validation_bits_per_byte']:.4f}{rate}"
    )


def _progress_bar(console: Console) -> Progress:
    from rich.console import Console as RichConsole
    from rich.progress import (
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        *bar_columns(console),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=RichConsole(stderr=True, no_color=not console.color_stderr),
        transient=True,
    )
    STATUS.clear()
    bar.add_task("starting", total=1.0)
    return bar

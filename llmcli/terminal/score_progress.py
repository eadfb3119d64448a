"""How far scoring has come: tokens, tokens a second, the perplexity so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from llmcli.terminal.console import Console
from llmcli.terminal.status import STATUS

if TYPE_CHECKING:
    from llmcli.scoring.statistics import Tally
    from llmcli.scoring.token_scores import TokenScores
    from llmcli.scoring.windows import Window


class Scoring(Protocol):
    """What is watched: its sums grow as windows are scored."""

    total: Tally


@contextmanager
def score_progress(
    console: Console, scoring: Scoring
) -> Iterator[Callable[[Window, TokenScores], None]]:
    """Give a callback for scored windows that keeps a line on stderr up to date.

    Nothing is drawn where stderr is no terminal or ``--quiet`` was given.
    """
    if not console.shows_progress:
        yield lambda window, scores: None
        return
    from rich.console import Console as RichConsole
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=RichConsole(stderr=True, no_color=not console.color_stderr),
        transient=True,
    )
    STATUS.clear()
    task: Any = bar.add_task("scoring", total=None)
    start = time.perf_counter()
    seen = 0

    def show(window: Window, scores: TokenScores) -> None:
        nonlocal seen
        seen += window.scored
        total = scoring.total
        if total.weight:
            rate = seen / (time.perf_counter() - start)
            score = total.score(interval=False)
            sofar = f"{'pseudo-' if score.pseudo else ''}perplexity so far {score.perplexity:.4g}"
            bar.update(
                task,
                description=f"{seen:,} tokens, {rate:,.0f} tokens/s, {sofar}",
            )

    with bar:
        yield show

"""What ``llmcli score`` does: one text, rows of texts, tokens, two models."""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmcli.cli.score_job import (
    ScoreJob,
    convention_record,
    figures,
    interval_record,
    nothing_scored,
    paragraphs,
)
from llmcli.errors import BatchHadErrors, InvalidText
from llmcli.io.records import Record
from llmcli.terminal.score import row_header, row_line, score_table
from llmcli.terminal.score_progress import score_progress

if TYPE_CHECKING:
    from llmcli.scoring.statistics import Score, Tally
    from llmcli.scoring.token_scores import TokenScores
    from llmcli.scoring.windows import Convention, Window

OnWindow = Callable[["Window", "TokenScores"], None]


def score_whole(job: ScoreJob) -> None:
    """All input as one text: its figures, and its tokens on the screen or in a page."""
    convention = job.convention()
    scorer = job.scorer(convention)
    watchers: list[OnWindow] = []
    start = time.perf_counter()
    with ExitStack() as stack:
        if job.settings.tokens:
            from llmcli.cli.score_tokens import token_watcher

            watchers.append(stack.enter_context(token_watcher(job, scorer)))
        else:
            watchers.append(stack.enter_context(score_progress(job.console, scorer)))
        finish_page: Callable[[dict[str, Any]], None] | None = None
        if job.settings.html is not None:
            from llmcli.cli.score_tokens import page_watcher

            watch, finish_page = stack.enter_context(page_watcher(job, scorer))
            watchers.append(watch)

        def tell(key: None, window: Window, scores: TokenScores) -> None:
            for watcher in watchers:
                watcher(window, scores)

        ((_, tally),) = scorer.run([(None, job.whole())], on_window=tell)
        if not tally.weight:
            raise nothing_scored("The text", tally, convention, prompt=job.settings.prompt)
        score = tally.score()
        record = _record(job, score, convention, time.perf_counter() - start)
        if finish_page is not None:
            finish_page(record)
    _show(job, score, record)


def _record(job: ScoreJob, score: Score, convention: Convention, seconds: float) -> dict[str, Any]:
    from llmcli.tasks.provenance import provenance

    return {
        **figures(score),
        **interval_record(score),
        **convention_record(convention),
        **({"prompt": job.settings.prompt} if job.settings.prompt else {}),
        "seconds": seconds,
        "tokens_per_second": score.tokens / seconds,
        **provenance(job.model),
    }


def _show(job: ScoreJob, score: Score, record: dict[str, Any]) -> None:
    """Print the totals, then hold the gates."""
    console = job.console
    if console.json_output:
        alone = not job.settings.has_rows and not job.settings.tokens
        console.record(record if alone else {"unit": "total", **record})
    elif console.quiet:
        console.line(f"{score.perplexity:.6g}")
    elif not job.settings.tokens:
        console.render(score_table(record))
    elif console.stdout_is_terminal:
        console.line()
        console.render(score_table(record))
    job.check(score)


# -- rows ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Means:
    """Means over rows, each row counting alike."""

    rows: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, score: Score) -> None:
        self.rows += 1
        for name in ("perplexity", "nll_per_token", "bits_per_byte"):
            value = getattr(score, name)
            if value is not None:
                self.sums[name] = self.sums.get(name, 0.0) + value

    def record(self) -> dict[str, Any]:
        return {name: value / self.rows for name, value in self.sums.items()}


def score_rows(job: ScoreJob) -> None:
    """A row for each file, line, paragraph or record, then the total and the rows' mean."""
    convention = job.convention()
    scorer = job.scorer(convention)
    rows = _Rows(job, convention)
    start = time.perf_counter()
    for record, tally in scorer.run(rows.texts()):
        rows.take(record, tally)
    rows.finish()
    if not scorer.total.weight:
        raise nothing_scored("The input", scorer.total, convention, prompt=job.settings.prompt)
    score = scorer.total.score()
    total = _record(job, score, convention, time.perf_counter() - start)
    _show(job, score, {**total, "rows": rows.means.rows, "mean_of_rows": rows.means.record()})
    if rows.failed:
        raise BatchHadErrors(
            f"{rows.failed} of {rows.failed + rows.means.rows} records are error records.",
            "Look for the field 'error' in the output.",
        )


class _Rows:
    """Shows rows as they come, or holds the highest of them."""

    def __init__(self, job: ScoreJob, convention: Convention) -> None:
        self._job = job
        self._convention = convention
        self._held: list[tuple[float, int, Record, Score]] = []
        self._count = 0
        self._shown = 0
        # Records are read ahead of the model, so errors wait for the rows before them.
        self._begun = 0
        self._done = 0
        self._waiting: deque[tuple[int, dict[str, Any]]] = deque()
        self.means = _Means()
        self.failed = 0

    def texts(self) -> Iterator[tuple[Record, Iterator[str]]]:
        """The records that have a text; one that has none is reported."""
        from llmcli.tokenization.stream import check_surrogates

        records = self._job.records()
        by = self._job.settings.by
        for record in paragraphs(records) if by == "paragraph" else records:
            if record.error is not None:
                self._report(record, record.error, self._begun)
                continue
            if by == "file":
                self._begun += 1
                yield record, iter(record.parts)
                continue
            try:
                check_surrogates(record.text)
            except InvalidText as exc:
                error = InvalidText(f"{record.place}: {exc.message}", exc.cure)
                self._report(record, error, self._begun)
                continue
            if by != "line" or record.text.strip():
                self._begun += 1
                yield record, iter([record.text])

    def take(self, record: Record, tally: Tally) -> None:
        """Take a row that is done."""
        self._take(record, tally)
        self._done += 1
        self._show_errors()

    def _take(self, record: Record, tally: Tally) -> None:
        if not tally.weight:
            prompt = self._job.settings.prompt
            error = nothing_scored(record.place, tally, self._convention, prompt=prompt)
            self._report(record, error, self._done)
            return
        score = tally.score(interval=self._job.settings.by == "file")
        self.means.add(score)
        self._count += 1
        settings = self._job.settings
        if settings.sort is None and settings.top is None:
            self._show(record, score)
            return
        item = (_height(settings.sort, score), -self._count, record, score)
        if settings.top is None or len(self._held) < settings.top:
            heapq.heappush(self._held, item)
        else:
            heapq.heappushpop(self._held, item)

    def finish(self) -> None:
        """Show the rows that were held, the highest first."""
        for _, _, record, score in sorted(self._held, key=lambda item: item[:2], reverse=True):
            self._show(record, score)

    def _show(self, record: Record, score: Score) -> None:
        console, by = self._job.console, self._job.settings.by
        if console.json_output:
            console.record({**self._named(record), **figures(score)})
        elif not console.quiet:
            if not self._shown:
                console.write_raw(row_header())
            label = record.name if by == "file" else f"{record.place}: {record.text}"
            console.write(row_line(figures(score), label, width=self._width))
        self._shown += 1

    @property
    def _width(self) -> int | None:
        console = self._job.console
        return console.width if console.stdout_is_terminal else None

    def _named(self, record: Record) -> dict[str, Any]:
        by = self._job.settings.by
        if self._job.settings.jsonl:
            return record.fields or {"text": record.text}
        named: dict[str, Any] = {"unit": by, "place": record.place}
        if record.name:
            named["file"] = record.name
        return named if by == "file" else {**named, "text": record.text}

    def _report(self, record: Record, error: Exception, place: int) -> None:
        """Say what is wrong with a record, once ``place`` texts are done, which come before it."""
        if not self._job.settings.jsonl or not self._job.console.json_output:
            raise error
        self.failed += 1
        found = {**record.fields, "error": str(error)}
        if place > self._done:
            self._waiting.append((place, found))
        else:
            self._job.console.record(found)

    def _show_errors(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._done:
            self._job.console.record(self._waiting.popleft()[1])


def _height(key: str | None, score: Score) -> float:
    if key == "nll":
        return score.nll
    value = score.bits_per_byte if key == "bits-per-byte" else score.perplexity
    return -math.inf if value is None else value


# -- two models --------------------------------------------------------------------------------


def score_versus(job: ScoreJob) -> None:
    """Two models on the same text: both scores, and their difference with its interval."""
    from llmcli.cli.score_versus import compare, comparison_record
    from llmcli.tasks.provenance import provenance
    from llmcli.terminal.score import versus_table

    start = time.perf_counter()
    result = compare(job)
    seconds = time.perf_counter() - start
    first, second, comparison = result.first, result.second, result.comparison
    bits = (first.bits_per_byte, second.bits_per_byte)
    record = {
        **_record(job, first, result.convention, seconds),
        "vs": {**figures(second), **interval_record(second), **provenance(result.other)},
        "difference": comparison_record(
            comparison,
            None if None in bits else bits[1] - bits[0],  # type: ignore[operator]
        ),
    }
    if job.console.json_output:
        job.console.record(record)
    elif job.console.quiet:
        job.console.line(f"{comparison.mean:.6g}")
    else:
        job.console.render(versus_table(record))
    job.check(first)

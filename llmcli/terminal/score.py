"""Scores as ``llmcli score`` shows them: tables, rows, tinted tokens, a page, JSON."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmcli.errors import InvalidInput, InvalidText
from llmcli.io.batch import Batch, answer_row, placed
from llmcli.io.files import atomic_write
from llmcli.io.records import Record, paragraphs
from llmcli.scoring.statistics import Means
from llmcli.tasks.score import (
    Gates,
    OnWindow,
    Scoring,
    SortKey,
    figures,
    height,
    nothing_scored,
)
from llmcli.tasks.seen_tokens import SeenToken, SeenTokens, token_record
from llmcli.terminal.console import Console
from llmcli.terminal.palette import surprisal_legend
from llmcli.terminal.progress import score_progress
from llmcli.terminal.score_table import row_header, row_line, score_table, versus_table
from llmcli.terminal.surprisal import Course, TintedText, stretches, token_line
from llmcli.terminal.tokens_page import TokensPage, about_score, about_versus

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel
    from llmcli.scoring.statistics import Score, Tally
    from llmcli.scoring.texts import TextScorer
    from llmcli.scoring.token_scores import TokenScores
    from llmcli.scoring.windows import Convention, Window

Unit = Literal["whole", "file", "line", "paragraph"]


def show_totals(
    console: Console,
    gates: Gates,
    score: Score,
    record: dict[str, Any],
    *,
    alone: bool = True,
    shown: bool = True,
    course: Course | None = None,
) -> None:
    """Print the totals, then hold the gates.

    Args:
        console: Where to.
        gates: What is held.
        score: The figures.
        record: The same, ready for JSON.
        alone: Whether nothing else was printed.
        shown: Whether a pipe gets the table.
        course: How the surprisal went, which the table shows.
    """

    def show_json() -> None:
        console.record(record if alone else {"unit": "total", **record})

    def show_table() -> None:
        drawn = "" if course is None else course.sparkline(console.width)
        if shown:
            console.render(score_table(record, drawn))
        elif console.stdout_is_terminal:
            console.line()
            console.render(score_table(record, drawn))

    def show_figure() -> None:
        console.line(f"{score.perplexity:.6g}")

    console.choose(json=show_json, quiet=show_figure, text=show_table)()
    gates.check(score)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreView:
    """Shows what comes of scoring.

    Attributes:
        console: Where to.
        scoring: The model and how it scores.
        gates: What is held at the end.
        size: How many bytes there are to score; None where nobody knows.
    """

    console: Console
    scoring: Scoring
    gates: Gates
    size: int | None = None

    def whole(self, parts: Iterable[str], *, tokens: bool, html: Path | None) -> None:
        """One text: its figures, and its tokens on the screen or in a page.

        Raises:
            GateFailed: it is above a gate.
        """
        finish: list[Callable[[dict[str, Any]], None]] = []
        course = Course()
        with ExitStack() as stack:

            @contextmanager
            def watch(scorer: TextScorer) -> Iterator[OnWindow]:
                opened = self._tokens if tokens else self._progress
                watchers = [stack.enter_context(opened(scorer)), course.add]
                if html is not None:
                    page = stack.enter_context(_open_page(html))
                    seen = SeenTokens(scorer)

                    def add(window: Window, scores: TokenScores) -> None:
                        for token in seen.of(window, scores):
                            page.add(token)

                    watchers.append(add)
                    finish.append(lambda record: page.finish(about_score(record)))

                def tell(window: Window, scores: TokenScores) -> None:
                    for watcher in watchers:
                        watcher(window, scores)

                yield tell

            answer = self.scoring.whole(parts, watch)
            record = answer.to_dict()
            for end in finish:
                end(record)
        show_totals(
            self.console,
            self.gates,
            answer.score,
            record,
            alone=not tokens,
            shown=not tokens,
            course=course,
        )

    def _progress(self, scorer: TextScorer) -> Any:
        return score_progress(self.console, scorer, self.size)

    # -- tokens ----------------------------------------------------------------------------

    @contextmanager
    def _tokens(self, scorer: TextScorer) -> Iterator[OnWindow]:
        """Give a callback that shows each window's tokens: JSON, tinted text, or a line each."""
        console = self.console
        seen = SeenTokens(scorer)

        def show_json(token: SeenToken) -> None:
            console.record(token_record(token))

        def show_line(token: SeenToken) -> None:
            console.write_raw(token_line(token))

        show_token = console.choose(json=show_json, text=show_line)
        if show_token is show_json or not console.color_stdout:

            def show_one_by_one(window: Window, scores: TokenScores) -> None:
                for token in seen.of(window, scores):
                    show_token(token)

            yield show_one_by_one
            return
        console.write_raw(surprisal_legend(console.width) + "\n\n")
        text = TintedText(console.write_raw, width=console.width)
        held: list[SeenToken] = []

        def show(window: Window, scores: TokenScores) -> None:
            held.extend(seen.of(window, scores))
            *whole, last = stretches(held)
            for stretch in whole:
                text.add(stretch)
            # The last may wait for the rest of its character.
            held[:] = last.tokens

        yield show
        for stretch in stretches(held):
            text.add(stretch)
        text.finish()

    # -- rows ------------------------------------------------------------------------------

    def rows(
        self,
        records: Iterable[Record],
        *,
        by: Unit,
        jsonl: bool,
        sort: SortKey | None,
        top: int | None,
    ) -> None:
        """A row for each file, line, paragraph or record, then the total and the rows' mean.

        Raises:
            BatchHadErrors: some of the records are error records.
            GateFailed: the total is above a gate.
        """
        start = time.perf_counter()
        convention = self.scoring.convention()
        scorer = self.scoring.scorer(convention)
        write = self.console.choose(json=self.console.record if jsonl else None, text=None)
        rows = _Rows(
            self.console,
            convention,
            Batch(write),
            by="record" if jsonl else by,
            sort=sort,
            top=top,
            prompt=self.scoring.request.prompt,
        )
        with self._progress(scorer) as show:
            for record, tally in scorer.run(
                rows.texts(records), on_window=lambda key, window, scores: show(window, scores)
            ):
                rows.take(record, tally)
        rows.finish()
        if not scorer.total.weight:
            raise rows.nothing_scored("The input", scorer.total)
        answer = self.scoring.answer(scorer.total.score(), convention, start)
        means = {"rows": rows.means.rows, "mean_of_rows": rows.means.record()}
        told = {**answer.to_dict(), **means}
        show_totals(self.console, self.gates, answer.score, told, alone=False)
        rows.batch.finish()

    # -- two models ------------------------------------------------------------------------

    def versus(self, other: LanguageModel, parts: Iterable[str], *, html: Path | None) -> None:
        """Two models on the same text: both scores, and their difference with its interval.

        ``html`` is a page that gets both models' tokens side by side.

        Raises:
            GateFailed: the first is above a gate.
        """
        with ExitStack() as stack:
            page = None if html is None else stack.enter_context(_open_page(html))
            on_token = None if page is None else lambda which, token: page.add(token, which)
            answer = self.scoring.versus(other, parts, self._progress, on_token)
            record = answer.to_dict()
            if page is not None:
                page.finish(about_versus(record))

        def show_json() -> None:
            self.console.record(record)

        def show_table() -> None:
            self.console.render(versus_table(record))

        def show_figure() -> None:
            self.console.line(f"{answer.comparison.mean:.6g}")

        self.console.choose(json=show_json, quiet=show_figure, text=show_table)()
        self.gates.check(answer.first.score)


@contextmanager
def _open_page(path: Path) -> Iterator[TokensPage]:
    """Give a page, which appears under its name only when it is complete."""
    with atomic_write(path) as file:
        yield TokensPage(file.write)


class _Rows:
    """Shows rows as they come, or holds the highest of them."""

    def __init__(
        self,
        console: Console,
        convention: Convention,
        batch: Batch,
        *,
        by: Unit | Literal["record"],
        sort: SortKey | None,
        top: int | None,
        prompt: str,
    ) -> None:
        self._console = console
        self._convention = convention
        self._prompt = prompt
        self._by = by
        self._sort = sort
        self._top = top
        self._held: list[tuple[float, int, Record, Score]] = []
        self._shown = 0
        self._row = console.choose(json=self._json_row, quiet=_no_row, text=self._text_row)
        self.batch = batch
        self.means = Means()

    def texts(self, records: Iterable[Record]) -> Iterator[tuple[Record, Iterator[str]]]:
        """The records that have a text, with it; one that has none is reported."""
        from llmcli.tokenization.stream import check_surrogates

        for record in self.batch.read(paragraphs(records) if self._by == "paragraph" else records):
            if self._by == "file":
                yield record, iter(record.parts)
                continue
            try:
                check_surrogates(record.text)
            except InvalidText as exc:
                self.batch.unread()
                self.batch.refuse(record, placed(record, exc))
                continue
            if self._by != "line" or record.text.strip():
                yield record, iter([record.text])
            else:
                self.batch.unread()

    def take(self, record: Record, tally: Tally) -> None:
        """Take a row that is done."""
        if not tally.weight:
            self.batch.fail(record, self.nothing_scored(record.place, tally))
            return
        score = tally.score(interval=self._by == "file")
        self.means.add(score)
        if self._sort is None and self._top is None:
            self._row(record, score)
        else:
            item = (height(self._sort, score), -self.means.rows, record, score)
            if self._top is None or len(self._held) < self._top:
                heapq.heappush(self._held, item)
            else:
                heapq.heappushpop(self._held, item)
        self.batch.done()

    def nothing_scored(self, place: str, tally: Tally) -> InvalidInput:
        """Why a text has no score."""
        return nothing_scored(place, tally, self._convention, prompt=self._prompt)

    def finish(self) -> None:
        """Show the rows that were held, the highest first."""
        for _, _, record, score in sorted(self._held, key=lambda item: item[:2], reverse=True):
            self._row(record, score)

    def _json_row(self, record: Record, score: Score) -> None:
        if self._by == "record":
            self._console.record(answer_row(record, figures(score)))
            return
        named = {"unit": self._by, "place": record.place}
        if record.name:
            named["file"] = record.name
        if self._by != "file":
            named["text"] = record.text
        self._console.record({**named, **figures(score)})

    def _text_row(self, record: Record, score: Score) -> None:
        console = self._console
        if not self._shown:
            console.write_raw(row_header(pseudo=score.pseudo, width=console.table_width))
        self._shown += 1
        named = self._by == "file"
        label = record.name if named else f"{record.place}: {record.text}"
        row = row_line(figures(score), label, width=console.table_width, whole=named)
        console.write(row)


def _no_row(record: Record, score: Score) -> None:
    """``-q`` prints the total alone."""

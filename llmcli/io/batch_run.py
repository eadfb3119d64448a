"""A batch from its input to its output, whatever is made of the records.

A verb says what comes of records (:data:`Work`); reading them, their order, error records, the
file that outlives a kill and the progress are the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llmcli.errors import InvalidInput, LlmcliError, NumericalError
from llmcli.io.batch import Batch, answer_row
from llmcli.io.fingerprint import fingerprint, total
from llmcli.io.formats import FormatName, format_of, write_rows
from llmcli.io.journal import Journal, Mode
from llmcli.io.json_line import to_json
from llmcli.io.records import Columns, Record, Source, Watch, rows_at_hand
from llmcli.io.sources import DecodeErrors
from llmcli.reporting import working

# Error records that wait for the answers before them; then the answers are waited for.
_HELD_BACK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a record.

    Attributes:
        record: The record.
        made: What was made of it, to stand in its row; or why there is nothing.
        last: Whether nothing more comes of it.
        tokens: How many tokens that took, for the progress.
        interrupted: Whether it was cut short; it is not written to a file.
    """

    record: Record
    made: Mapping[str, Any] | LlmcliError
    last: bool = True
    tokens: int = 0
    interrupted: bool = False


Work = Callable[[Iterator[Record | None], Callable[[], bool]], Iterator[Answer]]
"""What a verb makes of records: their answers, in the same order.

None among the records says that the next one must be waited for: what is under way should be
brought to its end first. Work that knows one record at a time has nothing under way. The second
argument says when to cut short what is under way; there are no further records then.
"""


def one_by_one(
    work: Callable[[Record], Mapping[str, Any]],
    *,
    tokens: Callable[[Mapping[str, Any]], int] = lambda made: 0,
) -> Work:
    """Work on one record after the other; what its own text makes wrong is its error.

    Args:
        work: What is made of one.
        tokens: How many tokens that took.
    """

    def run(records: Iterator[Record | None], should_stop: Callable[[], bool]) -> Iterator[Answer]:
        for record in records:
            if record is None:
                continue
            try:
                made = work(record)
            except (InvalidInput, NumericalError) as exc:
                yield Answer(record=record, made=exc)
            else:
                yield Answer(record=record, made=made, tokens=tokens(made))

    return run


class Interrupt(Protocol):
    """Ctrl-C, asked for politely."""

    set: bool

    def __call__(self) -> bool:
        """Whether it was pressed."""

    def lifted(self) -> AbstractContextManager[None]:
        """Inside, it raises as everywhere."""


class Progress(Protocol):
    """Is told how far a batch is."""

    def begin(self, total: int | None, done: int, failed: int = 0) -> None:
        """So many records there are, if that is known; so many are there, some with an error."""

    def note(self, *, tokens: int, failed: int, records: int = 1) -> None:
        """So many records are done, of which so many have an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """A batch's input and output.

    Attributes:
        sources: The input.
        columns: Which of its columns are what.
        errors: What is done with bytes that are not UTF-8.
        form: The input's format, where its suffix does not tell.
        output: The file that rows are appended to; None for none.
        mode: What becomes of an output that is there.
    """

    sources: list[Source]
    columns: Columns
    errors: DecodeErrors = "strict"
    form: FormatName | None = None
    output: Path | None = None
    mode: Mode = "new"

    def to_dict(self) -> dict[str, Any]:
        """What of it the rows depend on, beside the input itself."""
        return {
            "field": self.columns.text,
            "id_field": self.columns.id,
            "errors": self.errors,
            "format": self.form,
        }


class BatchRun:
    """Runs a batch once.

    Args:
        request: Its input and output.
        made_by: What the rows depend on beside them: JSON values by name.
        lines: How many rows a record has.
        show: Takes a row where there is no output file.
        progress: Is told how far it is.
        interrupted: Ends it.
        watch: Opens a progress bar for reading the input beforehand.

    Raises:
        InvalidInput: the input cannot be read.
    """

    def __init__(
        self,
        request: BatchRequest,
        made_by: Mapping[str, Any],
        *,
        lines: int = 1,
        show: Callable[[Mapping[str, Any]], None],
        progress: Progress,
        interrupted: Interrupt,
        watch: Watch | None = None,
    ) -> None:
        self._request = request
        self._lines = lines
        self._show = show
        self._progress = progress
        self._interrupted = interrupted
        self._batch = Batch(self._fail)
        self._sink: _Sink = _Shown(show)
        self._broken_off: LlmcliError | None = None
        self._inputs = (
            []
            if request.output is None
            else [fingerprint(each, asked=request.form, watch=watch) for each in request.sources]
        )
        known = [None if each is None else each.to_dict() for each in self._inputs]
        self._manifest = {**made_by, **request.to_dict(), "input": known}

    def run(self, work: Work) -> None:
        """Work on the input's records.

        Raises:
            InvalidInput: an output is there, or is of another model, setting or input; or the
                input breaks off, and what came before is done.
            StorageError: another run writes to the output, or the disk does not take it.
        """
        if self._request.output is None:
            self._progress.begin(None, 0)
            self._drive(work, None)
        else:
            plain = format_of(str(self._request.output)).appendable
            journal = Journal(self._request.output, self._manifest, lines=self._lines, plain=plain)
            with self._into(journal) as wanted:
                self._drive(work, wanted)
            done = not self._interrupted.set and self._broken_off is None
            if done and not plain and not journal.complete:
                form = format_of(str(journal.path))
                working(f"writing {journal.path}")
                journal.convert(
                    lambda rows, file: write_rows(rows, file, form), keep=bool(self._batch.failed)
                )
        if self._broken_off is not None:
            raise self._broken_off

    def finish(self) -> None:
        """End the batch.

        Raises:
            BatchHadErrors: some of the records are error records.
        """
        if not self._interrupted.set:
            self._batch.finish()

    @contextmanager
    def _into(self, journal: Journal) -> Iterator[Callable[[int], bool]]:
        """Open the output; which records are to be made for it."""
        if self._request.mode == "retry":
            journal.check_same()
            failed = journal.errors()
            self._progress.begin(len(failed), 0)
            if not failed:
                yield failed.__contains__
                return
            with journal.replacing() as replacer:
                self._sink = _Written(replacer.write)
                yield failed.__contains__
            return
        if self._request.mode == "resume" and journal.complete:
            journal.check_same()
            self._progress.begin(0, 0)
            yield lambda number: False
            return
        with journal.open(self._request.mode) as out:
            begin = out.done
            if begin:
                working("finding where to go on")
            # What failed before a run was cut short counts at its end.
            self._batch.seen, self._batch.failed = begin, len(journal.errors()) if begin else 0
            self._progress.begin(total(self._inputs), begin, self._batch.failed)
            self._sink = _Written(out.write)
            yield lambda number: number >= begin

    def _drive(self, work: Work, wanted: Callable[[int], bool] | None) -> None:
        file = self._request.output is not None
        for answer in work(self._records(wanted), self._interrupted):
            if isinstance(answer.made, LlmcliError):
                self._batch.fail(answer.record, answer.made)
                continue
            if answer.interrupted and file:
                return
            self._sink.add(answer_row(answer.record, answer.made), last=answer.last)
            if answer.last:
                self._progress.note(tokens=answer.tokens, failed=0)
                self._batch.done()

    def _fail(self, row: dict[str, Any]) -> None:
        self._sink.fail(row)
        self._progress.note(tokens=0, failed=1)

    def _records(self, wanted: Callable[[int], bool] | None) -> Iterator[Record | None]:
        """The records that can be worked on; None where the next must be waited for."""
        request = self._request
        found = rows_at_hand(
            request.sources,
            columns=request.columns,
            errors=request.errors,
            asked=request.form,
            wanted=wanted,
        )
        while not self._interrupted():
            try:
                # Waiting for input ends at once: nothing is under way then.
                with self._interrupted.lifted():
                    record = next(found)
            except StopIteration:
                return
            except KeyboardInterrupt:
                self._interrupted.set = True
                return
            except LlmcliError as exc:
                self._broken_off = exc
                return
            if record is None or self._batch.begin(record):
                yield record
            elif self._batch.held_back >= _HELD_BACK:
                yield None


class _Sink(Protocol):
    def add(self, row: Mapping[str, Any], *, last: bool) -> None: ...

    def fail(self, row: Mapping[str, Any]) -> None: ...


class _Shown:
    """Rows as they come."""

    def __init__(self, show: Callable[[Mapping[str, Any]], None]) -> None:
        self._show = show

    def add(self, row: Mapping[str, Any], *, last: bool) -> None:
        self._show(row)

    def fail(self, row: Mapping[str, Any]) -> None:
        self._show(row)


class _Written:
    """All rows of a record at once, as lines; an error takes the place of all of them."""

    def __init__(self, write: Callable[[int, bytes], None]) -> None:
        self._write = write
        self._rows: list[Mapping[str, Any]] = []

    def add(self, row: Mapping[str, Any], *, last: bool) -> None:
        self._rows.append(row)
        if last:
            self._end(self._rows)
            self._rows = []

    def fail(self, row: Mapping[str, Any]) -> None:
        self._rows = []
        self._end([row])

    def _end(self, rows: Iterable[Mapping[str, Any]]) -> None:
        lines, number = [], -1
        for row in rows:
            number = row["record"]
            lines.append(to_json(row) + "\n")
        self._write(number, "".join(lines).encode("utf-8"))

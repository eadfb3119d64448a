"""Rows in, continuations out: JSON lines in their order, into a file that outlives a kill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llmcli._version import __version__
from llmcli.engine.params import SamplingParams, TokenEvent
from llmcli.errors import BatchHadErrors
from llmcli.io.batch import placed
from llmcli.io.formats import format_of, write_rows
from llmcli.io.journal import Journal, Mode, fingerprint
from llmcli.io.records import Record, Source, rows_at_hand, to_json
from llmcli.io.sources import STDIN
from llmcli.tasks.generate import Text, continue_batch
from llmcli.tasks.generate_answer import generate_answer
from llmcli.tasks.provenance import settings_record
from llmcli.tasks.statistics import GenerationStats

if TYPE_CHECKING:
    from llmcli.io.formats import FormatName
    from llmcli.io.sources import DecodeErrors
    from llmcli.models.language_model import LanguageModel


class Interrupt(Protocol):
    """Ctrl-C, asked for politely."""

    set: bool

    def __call__(self) -> bool:
        """Whether it was pressed."""

    def lifted(self) -> AbstractContextManager[None]:
        """Inside, it raises as everywhere."""


class Progress(Protocol):
    """Is told how far a batch is."""

    skipped: int

    def note(self, *, tokens: int, failed: bool) -> None:
        """A record is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """What to continue, and how.

    Attributes:
        sources: The input.
        errors: What is done with bytes that are no UTF-8.
        form: The input's format, where its suffix does not tell.
        field: The prompt's name in a row.
        batch_size: How many continuations at once; None for several where that is exact.
        echo: Whether the prompt stands before its continuation.
        output: The file that lines are appended to; None for none.
        mode: What becomes of an output that is there.
        how: Further arguments of `continue_batch`.
    """

    sources: list[Source]
    errors: DecodeErrors
    form: FormatName | None
    field: str
    batch_size: int | None
    echo: bool
    output: Path | None
    mode: Mode
    how: dict[str, Any]


def stored_seed(output: Path) -> int | None:
    """The seed that an output was made with; None where there is none to go on with."""
    seed = Journal(output, {}).stored().get("seed")
    return seed if isinstance(seed, int) else None


class GenerateBatch:
    """Rows in, JSON lines out, in the same order; other fields pass through.

    Args:
        model: What continues.
        params: The settings.
        request: What to continue.
        stats: Counts what passes.
        interrupted: Ends the batch.
    """

    def __init__(
        self,
        model: LanguageModel,
        params: SamplingParams,
        request: BatchRequest,
        stats: GenerationStats,
        interrupted: Interrupt,
    ) -> None:
        self.model = model
        self.params = params
        self._request = request
        self._stats = stats
        self._interrupted = interrupted
        self._seen = self._failed = 0
        self._inputs = [_input(source) for source in request.sources] if request.output else []

    @property
    def total(self) -> int | None:
        """How many records there are, if that is known."""
        counts = [each["lines"] for each in self._inputs if each is not None]
        return sum(counts) if len(counts) == len(self._inputs) else None

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield a record for each continuation as it is finished, and for each error."""
        for _, record in self._records(lambda number: True):
            yield record

    def write(self, progress: Progress) -> None:
        """Append the records to the output."""
        assert self._request.output is not None  # the caller's choice
        journal = self._journal(self._request.output)
        if self._request.mode == "retry":
            self._retry(journal, progress)
        else:
            self._append(journal, progress)

    def finish(self) -> None:
        """End the batch.

        Raises:
            BatchHadErrors: some of the records are error records.
        """
        if self._failed and not self._interrupted.set:
            raise BatchHadErrors(
                f"{self._failed} of {self._seen} records are error records.",
                "Look for the field 'error' in the output.",
            )

    # -- into a file -------------------------------------------------------------------------

    def _journal(self, path: Path) -> Journal:
        request, plain = self._request, format_of(str(path)).appendable
        manifest = {
            "command": "generate",
            "version": __version__,
            "model": self.model.name,
            "revision": self.model.revision,
            "precision": self.model.precision,
            "seed": self.params.seed,
            "sampling": settings_record(self.params),
            "field": request.field,
            "bos": request.how["bos"],
            "heal": request.how["heal"],
            "special": request.how["special"],
            "echo": request.echo,
            "input": self._inputs,
        }
        lines = self.params.num_return_sequences
        return Journal(path, manifest, lines=lines, plain=plain)

    def _append(self, journal: Journal, progress: Progress) -> None:
        with journal.open(self._request.mode) as out:
            progress.skipped = self._seen = begin = out.done
            # What failed before a run was cut short counts at its end.
            self._failed = len(journal.errors()) if begin else 0
            for lines, _ in self._finished(progress, lambda number: number >= begin):
                out.write(lines)
        if not journal.plain and not self._interrupted.set:
            form = format_of(str(journal.path))
            journal.finished(lambda rows, file: write_rows(rows, file, form))

    def _retry(self, journal: Journal, progress: Progress) -> None:
        failed = journal.failed_records()
        made = self._finished(progress, failed.__contains__)
        journal.replace((number, lines) for lines, number in made)

    def _finished(
        self, progress: Progress, wanted: Callable[[int], bool]
    ) -> Iterator[tuple[bytes, int]]:
        """Yield all lines of a record at once, and its number; what Ctrl-C cut short is left."""
        lines: list[bytes] = []
        last = self.params.num_return_sequences - 1
        for number, record in self._records(wanted):
            if record.get("finish_reason") == "interrupted":
                return
            lines.append((to_json(record) + "\n").encode("utf-8"))
            if "error" in record or record["index"] == last:
                progress.note(tokens=self._stats.tokens, failed="error" in record)
                yield b"".join(lines), number
                lines.clear()

    # -- records -----------------------------------------------------------------------------

    def _records(self, wanted: Callable[[int], bool]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield a record for each continuation as it is finished, and for each error."""
        told = continue_batch(
            self.model,
            self._texts(wanted),
            self.params,
            batch_size=self._request.batch_size,
            should_stop=self._interrupted,
            draft_stats=self._stats.draft,
            **self._request.how,
        )
        collected: list[TokenEvent] = []
        begun = -1
        for each in told:
            record, place = each.key, {"record": each.number}
            if each.error is not None:
                self._failed += 1
                collected.clear()
                error = str(placed(record, each.error))
                yield each.number, {**record.fields, **place, "error": error}
            if each.event is None:
                continue
            if each.number != begun:
                begun = each.number
                self._stats.prompt_tokens += each.prompt_tokens
            self._stats.note(each.event)
            collected.append(each.event)
            if each.event.finish_reason is not None:
                fields = record.fields or {self._request.field: record.text}
                made = generate_answer(
                    self.model,
                    self.params,
                    record.text,
                    each.prompt_tokens,
                    collected,
                    echo=self._request.echo,
                ).to_dict()
                yield each.number, {**fields, **place, **made}
                collected.clear()

    def _texts(self, wanted: Callable[[int], bool]) -> Iterator[Text[Record] | None]:
        """Yield the input's records with their texts; None where the next must be waited for."""
        found = rows_at_hand(
            self._request.sources,
            errors=self._request.errors,
            text_field=self._request.field,
            asked=self._request.form,
        )
        while True:
            try:
                # Waiting for input ends at once: nothing is under way then.
                with self._interrupted.lifted():
                    record = next(found)
            except StopIteration:
                return
            except KeyboardInterrupt:
                self._interrupted.set = True
                return
            if record is None:
                yield None
                continue
            if wanted(record.number):
                self._seen += 1
                yield Text(key=record, number=record.number, text=record.error or record.text)


def _input(source: Source) -> dict[str, Any] | None:
    return None if source.name in ("", STDIN) else fingerprint(source.name)

"""``llmcli generate --jsonl``: a prompt a row in, a continuation a line out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli._version import __version__
from llmcli.cli.boundary import InterruptFlag
from llmcli.cli.generate_run import Run
from llmcli.engine.params import DraftStats, TokenEvent
from llmcli.errors import BatchHadErrors
from llmcli.io.formats import format_of, write_rows
from llmcli.io.journal import Journal, Mode, fingerprint
from llmcli.io.records import Record, Source, rows_at_hand
from llmcli.io.sources import STDIN
from llmcli.terminal.console import to_json

if TYPE_CHECKING:
    from llmcli.io.sources import DecodeErrors
    from llmcli.tasks.generate import Text, Told


def stored_seed(output: str) -> int | None:
    """The seed that an output was made with; None where there is none to go on with."""
    seed = Journal(Path(output), {}).stored().get("seed")
    return seed if isinstance(seed, int) else None


@dataclass
class BatchRun(Run):
    """Rows in, JSON lines out, in the same order; other fields pass through."""

    sources: list[Source]
    errors: DecodeErrors

    def write(self) -> bool:
        """Generate and write; whether Ctrl-C cut it short.

        Raises:
            BatchHadErrors: some of the records are error records.
        """
        from llmcli.terminal.progress import BatchProgress
        from llmcli.terminal.statistics import GenerationStats

        self._draft_stats = DraftStats() if self.draft else None
        self._stats = GenerationStats(prompt_tokens=0, draft=self._draft_stats)
        self._seen = self._failed = 0
        interrupted = InterruptFlag()
        with interrupted:
            if not self.options.output:
                for _, record in self._records(interrupted, lambda number: True):
                    self.console.record(record)
            else:
                inputs = [self._input(source) for source in self.sources]
                journal = self._journal(Path(self.options.output), inputs)
                counts = [each["lines"] for each in inputs if each is not None]
                total = sum(counts) if len(counts) == len(inputs) else None
                with BatchProgress(self.console, total) as self._progress:
                    if self.options.retry_errors:
                        self._retry(journal, interrupted)
                    else:
                        self._append(journal, interrupted)
        if self.options.stats:
            lines = self._stats.summary(self.model.timings, detailed=self.console.verbose)
            self.console.say(lines)
        if self._failed and not interrupted.set:
            raise BatchHadErrors(
                f"{self._failed} of {self._seen} records are error records.",
                "Look for the field 'error' in the output.",
            )
        return interrupted.set

    # -- into a file -------------------------------------------------------------------------

    def _journal(self, path: Path, inputs: list[dict[str, Any] | None]) -> Journal:
        from llmcli.tasks.provenance import settings_record

        options, plain = self.options, format_of(str(path)).appendable
        manifest = {
            "command": "generate",
            "version": __version__,
            "model": self.model.name,
            "revision": self.model.revision,
            "precision": self.model.precision,
            "seed": self.params.seed,
            "sampling": settings_record(self.params),
            "field": options.field,
            "bos": options.bos,
            "heal": options.heal,
            "special": options.special,
            "echo": bool(options.echo),
            "input": inputs,
        }
        lines = self.params.num_return_sequences
        return Journal(path, manifest, lines=lines, plain=plain)

    def _input(self, source: Source) -> dict[str, Any] | None:
        return None if source.name in ("", STDIN) else fingerprint(source.name)

    def _append(self, journal: Journal, interrupted: InterruptFlag) -> None:
        mode: Mode = "resume" if self.options.resume else "new"
        with journal.open("overwrite" if self.options.overwrite else mode) as out:
            self._progress.skipped = self._seen = begin = out.done
            # What failed before a run was cut short counts at its end.
            self._failed = len(journal.errors()) if begin else 0
            for lines, _ in self._finished(interrupted, lambda number: number >= begin):
                out.write(lines)
        if not journal.plain and not interrupted.set:
            form = format_of(str(journal.path))
            journal.finished(lambda rows, file: write_rows(rows, file, form))

    def _retry(self, journal: Journal, interrupted: InterruptFlag) -> None:
        failed = journal.failed_records()
        made = self._finished(interrupted, failed.__contains__)
        journal.replace((number, lines) for lines, number in made)

    def _finished(self, interrupted: InterruptFlag, wanted: Any) -> Iterator[tuple[bytes, int]]:
        """Yield all lines of a record at once, and its number; what Ctrl-C cut short is left."""
        lines: list[bytes] = []
        last = self.params.num_return_sequences - 1
        for number, record in self._records(interrupted, wanted):
            if record.get("finish_reason") == "interrupted":
                return
            lines.append((to_json(record) + "\n").encode("utf-8"))
            if "error" in record or record["index"] == last:
                self._progress.note(tokens=self._stats.tokens, failed="error" in record)
                yield b"".join(lines), number
                lines.clear()

    # -- records -----------------------------------------------------------------------------

    def _records(
        self, interrupted: InterruptFlag, wanted: Any
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield a record for each continuation as it is finished, and for each error."""
        from llmcli.tasks.generate import continue_batch

        told = continue_batch(
            self.model,
            self._texts(interrupted, wanted),
            self.params,
            batch_size=self.options.batch_size,
            bos=self.options.bos,
            heal=self.options.heal,
            special=self.options.special,
            should_stop=interrupted,
            draft=self.draft,
            draft_stats=self._draft_stats,
        )
        collected: list[TokenEvent] = []
        begun = -1
        for each in told:
            record, place = each.key, {"record": each.number}
            if each.event is None:
                self._failed += 1
                collected.clear()
                yield each.number, {**record.fields, **place, "error": _placed(record, each)}
                continue
            if each.number != begun:
                begun = each.number
                self._stats.prompt_tokens += each.prompt_tokens
            self._stats.note(each.event)
            collected.append(each.event)
            if each.event.finish_reason is not None:
                fields = record.fields or {self.options.field: record.text}
                made = self.record(record.text, each.prompt_tokens, collected)
                yield each.number, {**fields, **place, **made}
                collected.clear()

    def _texts(self, interrupted: InterruptFlag, wanted: Any) -> Iterator[Text[Record] | None]:
        """Yield the input's records with their texts; None where the next must be waited for."""
        from llmcli.tasks.generate import Text

        found = rows_at_hand(
            self.sources,
            errors=self.errors,
            text_field=self.options.field,
            asked=self.options.input_format,
        )
        while True:
            try:
                # Waiting for input ends at once: nothing is under way then.
                with interrupted.lifted():
                    record = next(found)
            except StopIteration:
                return
            except KeyboardInterrupt:
                interrupted.set = True
                return
            if record is None:
                yield None
                continue
            if wanted(record.number):
                self._seen += 1
                yield Text(key=record, number=record.number, text=record.error or record.text)


def _placed(record: Record, told: Told[Record]) -> str:
    """The text of an error; one that came up later does not say where its record stands yet."""
    return str(told.error) if told.error is record.error else f"{record.place}: {told.error}"

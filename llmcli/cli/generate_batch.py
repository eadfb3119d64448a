"""``llmcli generate --jsonl``: a prompt a line in, a continuation a line out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmcli.cli.boundary import InterruptFlag
from llmcli.cli.generate_run import Run
from llmcli.engine.params import DraftStats, TokenEvent
from llmcli.errors import BatchHadErrors
from llmcli.io.records import Record, Source, json_records_at_hand

if TYPE_CHECKING:
    from llmcli.io.sources import DecodeErrors
    from llmcli.tasks.generate import Text, Told


@dataclass
class BatchRun(Run):
    """JSON lines in, JSON lines out, in the same order; other fields pass through."""

    sources: list[Source]
    errors: DecodeErrors

    def write(self) -> bool:
        """Generate and write; whether Ctrl-C cut it short.

        Raises:
            BatchHadErrors: some of the records are error records.
        """
        from llmcli.tasks.generate import continue_batch
        from llmcli.terminal.statistics import GenerationStats

        interrupted = InterruptFlag()
        draft_stats = DraftStats() if self.draft else None
        self._stats = GenerationStats(prompt_tokens=0, draft=draft_stats)
        self._seen = self._failed = 0
        with interrupted:
            told = continue_batch(
                self.model,
                self._texts(interrupted),
                self.params,
                batch_size=self.options.batch_size,
                bos=self.options.bos,
                heal=self.options.heal,
                special=self.options.special,
                should_stop=interrupted,
                draft=self.draft,
                draft_stats=draft_stats,
            )
            self.write_records(self._records(told))
        if self.options.stats:
            lines = self._stats.summary(self.model.timings, detailed=self.console.verbose)
            self.console.say(lines)
        if self._failed and not interrupted.set:
            raise BatchHadErrors(
                f"{self._failed} of {self._seen} records are error records.",
                "Look for the field 'error' in the output.",
            )
        return interrupted.set

    def _texts(self, interrupted: InterruptFlag) -> Iterator[Text[Record] | None]:
        """Yield the input's records with their texts; None where the next must be waited for."""
        from llmcli.tasks.generate import Text

        found = json_records_at_hand(
            self.sources, errors=self.errors, text_field=self.options.field
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
            yield Text(key=record, number=self._seen, text=record.error or record.text)
            self._seen += 1

    def _records(self, told: Iterator[Told[Record]]) -> Iterator[dict[str, Any]]:
        """Yield a record for each continuation as it is finished, and for each error."""
        collected: list[TokenEvent] = []
        begun: Record | None = None
        for each in told:
            record = each.key
            if each.event is None:
                self._failed += 1
                collected.clear()
                yield {**record.fields, "error": _placed(record, each)}
                continue
            if record is not begun:
                begun = record
                self._stats.prompt_tokens += each.prompt_tokens
            self._stats.note(each.event)
            collected.append(each.event)
            if each.event.finish_reason is not None:
                fields = record.fields or {self.options.field: record.text}
                yield {**fields, **self.record(record.text, each.prompt_tokens, collected)}
                collected.clear()


def _placed(record: Record, told: Told[Record]) -> str:
    """The text of an error; one that came up later does not say where its record stands yet."""
    return str(told.error) if told.error is record.error else f"{record.place}: {told.error}"

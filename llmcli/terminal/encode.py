"""Tokens as ``llmcli encode`` shows them: JSON, plain lines, tints on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmcli.errors import GateFailed
from llmcli.io.batch import Batch
from llmcli.io.records import MAX_DETAILED, MAX_RECORD, Record, RecordKind
from llmcli.tasks.encode import Encoder, TokenizerCount, chunk_record
from llmcli.terminal.console import Console
from llmcli.terminal.palette import DIM
from llmcli.terminal.table import Column, Table
from llmcli.terminal.tokens import escaped_token, tinted

if TYPE_CHECKING:
    from llmcli.tokenization.chunks import Boundary, Chunk, Side

_ENDS = {"whole": "", "lines": "\n", "null": "\0", "jsonl": "\n"}


@dataclass(kw_only=True)
class EncodeView:
    """Shows what an encoder makes of records.

    Attributes:
        console: Where to.
        encoder: The encoder.
        records: The texts, read as they are asked for.
        kind: What a text is of its source.
        named: Whether the names of the files are shown: there are several.
    """

    console: Console
    encoder: Encoder
    records: Iterator[Record]
    kind: RecordKind
    named: bool
    batch: Batch = field(init=False)

    def __post_init__(self) -> None:
        self.batch = Batch(self.console.choose(json=self.console.record, text=None))

    def ids(self) -> None:
        """Ids on a line for each text; JSON with everything; tints on a terminal."""
        self.console.choose(json=self._full, text=self._plain_ids)()

    def _full(self) -> None:
        def show(record: Record) -> None:
            text = record.held("--json", limit=MAX_DETAILED)
            self._record(record, self.encoder.tokens(text).to_dict())

        self.batch.each(self.records, show)

    def _plain_ids(self) -> None:
        if self.kind != "whole":
            for ids in self.encoder.batch_ids(self.batch, self.records):
                self.console.line(" ".join(map(str, ids)))
        else:
            terminal = self.console.stdout_is_terminal
            self.batch.each(self.records, self._tinted if terminal else self._line)

    def _line(self, record: Record) -> None:
        separator = ""
        for ids in self.encoder.id_lists(record.parts):
            if ids:
                self.console.write_raw(separator + " ".join(map(str, ids)))
                separator = " "
        self.console.write_raw("\n")

    def _tinted(self, record: Record) -> None:
        console = self.console
        count = size = 0

        def tokens() -> Iterator[tuple[int, bytes]]:
            nonlocal count, size
            for ids in self.encoder.id_lists(record.parts):
                for token_id in ids:
                    data = self.encoder.tokenizer.token_bytes(token_id)
                    count, size = count + 1, size + len(data)
                    yield token_id, data

        for shown in tinted(tokens(), color=console.color_stdout, ids=console.verbose):
            console.write_raw(shown)
        legend = "; a tint for each" if console.color_stdout else ""
        counts = f"{count} tokens, {size} bytes{legend}"
        console.write_raw("\n" + console.styled(counts, DIM) + "\n")

    def tokens(self) -> None:
        """One token a line, escaped; with its id in front under -v."""

        def show(record: Record) -> None:
            for piece in self.encoder.pieces(record.parts):
                for token_id in piece.ids:
                    label = f"{token_id}\t" if self.console.verbose else ""
                    token = escaped_token(self.encoder.tokenizer.token_bytes(token_id))
                    self.console.write_raw(f"{label}{token}\n")

        def show_all() -> None:
            self.batch.each(self.records, show)

        self.console.choose(json=self._full, text=show_all)()

    def count(self) -> None:
        """The number; a line a file and a total for several, a line a record for a batch."""

        def show_json(record: Record, count: int) -> None:
            self._record(record, {"count": count})

        def show_text(record: Record, count: int) -> None:
            self.console.line(f"{count} {record.name}" if self.named else str(count))

        show = self.console.choose(json=show_json, text=show_text)
        if self.kind != "whole":
            for record, count in self.encoder.batch_counts(self.batch, self.records):
                show(record, count)
            return
        total = 0
        for record in self.records:
            count = self.encoder.count(record.parts)
            total += count
            show(record, count)
        if self.named:
            self.console.text_only(f"{total} total")

    def fits(self, max_tokens: int) -> None:
        """Nothing, or JSON.

        Raises:
            GateFailed: a text has more tokens.
        """
        too_long: list[str] = []
        told = self.console.choose(json=True, text=False)

        def check(record: Record) -> None:
            fit = self.encoder.fit(record.parts, max_tokens, whole=told)
            if told:
                self._record(record, fit.to_dict())
            if not fit.fits:
                too_long.append(record.place)

        self.batch.each(self.records, check)
        if too_long:
            raise GateFailed(
                f"{too_long[0]} has more than {max_tokens} tokens.",
                f"Shorten it, or cut it with --max-tokens {max_tokens}.",
            )

    def comparison(self, others: Iterator[Encoder]) -> None:
        """Counts and tokens per byte by several tokenizers; the texts are kept in memory."""
        texts: list[str] = []
        room = MAX_RECORD

        def keep(record: Record) -> None:
            nonlocal room
            texts.append(record.held("--compare", limit=room))
            room -= len(texts[-1])

        self.batch.each(self.records, keep)
        found = (encoder.compared(texts) for encoder in (self.encoder, *others))
        self.console.choose(json=self._compared_records, text=self._compared_table)(found)

    def _compared_records(self, found: Iterator[TokenizerCount]) -> None:
        for each in found:
            self.console.record(each.to_dict())

    def _compared_table(self, found: Iterator[TokenizerCount]) -> None:
        table = Table(
            Column("model", "wrapped"),
            Column("tokens", "number"),
            Column("tokens/byte", "number"),
            Column("vocabulary", "number", rank=1),
        )
        for each in found:
            density = f"{each.tokens_per_byte:.4f}"
            table.add(each.model, str(each.count), density, str(each.vocab_size))
        self.console.render(table)

    def truncated(self, max_tokens: int, *, drop: Side) -> None:
        """The text cut to a number of tokens."""
        console = self.console
        as_json = console.choose(json=True, text=False)

        def show(record: Record) -> None:
            short, cut = self.encoder.truncate(record, max_tokens, drop=drop)
            if as_json:
                self._record(record, {"text": short, "truncated": cut})
            else:
                console.write(short + _ENDS[self.kind])

        self.batch.each(self.records, show)
        if console.stdout_is_terminal and self.kind == "whole" and not as_json:
            console.write_raw("\n")

    def chunks(
        self,
        max_tokens: int,
        *,
        overlap: int,
        boundary: Boundary,
        field: str,
        write: Callable[[int, Chunk], str] | None,
    ) -> None:
        """The text in chunks: a JSON record each, or a file each, or both.

        Args:
            max_tokens: Of a chunk.
            overlap: Tokens that a chunk repeats.
            boundary: The coarsest place for an end.
            field: The text's name in a JSON record, which is left out of what passes through.
            write: Writes a chunk of a number to a file, and returns its name.
        """
        written = 0
        told = self.console.choose(json=True, text=write is None)

        def show(record: Record) -> None:
            nonlocal written
            rest = {key: value for key, value in record.fields.items() if key != field}
            for chunk in self.encoder.split(
                record.held("--split"), max_tokens, overlap=overlap, boundary=boundary
            ):
                output = None if write is None else write(written, chunk)
                if told:
                    self.console.record(
                        {
                            **self._name(record),
                            **rest,
                            **chunk_record(chunk, output),
                            **self.encoder.provenance,
                        }
                    )
                written += 1

        self.batch.each(self.records, show)

    def all_ids(self) -> Iterator[list[int]]:
        """The ids of all records, in order, with those that are added."""
        if self.kind == "whole":
            for record in self.batch.read(self.records):
                yield from self.encoder.id_lists(record.parts)
        else:
            yield from self.encoder.batch_ids(self.batch, self.records)

    def _name(self, record: Record) -> dict[str, Any]:
        return {"file": record.name} if self.named else {}

    def _record(self, record: Record, answer: dict[str, Any]) -> None:
        passed = {**self._name(record), **record.fields}
        self.console.record({**passed, **answer, **self.encoder.provenance})

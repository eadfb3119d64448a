"""What ``llmcli encode`` was asked to do, and its records with their tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from llmcli.errors import BatchHadErrors, InvalidInput
from llmcli.io.records import Record, RecordKind, Source, Watch, records
from llmcli.io.sources import DecodeErrors
from llmcli.terminal.console import Console

if TYPE_CHECKING:
    from llmcli.hub.resolve import ResolvedModel
    from llmcli.io.idfile import IdFormat
    from llmcli.tokenization.chunks import Boundary, Side
    from llmcli.tokenization.large_text import Piece
    from llmcli.tokenization.tokenizer import SpecialTokens, Tokenizer

Mode = Literal["ids", "count", "tokens", "format", "max_tokens", "split", "fits", "compare"]
_BARE = ("tokens", "max_tokens", "split")  # the modes in which nothing is put around a text


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeSettings:
    """What encode alone takes, as it stands on the command line."""

    count: bool
    tokens: bool
    format: IdFormat | None
    output: str | None
    max_tokens: int | None
    truncate: Side
    split: int | None
    overlap: int
    boundary: Boundary
    fits: int | None
    compare: tuple[str, ...]
    lines: bool
    null: bool
    jsonl: bool
    field: str
    special: SpecialTokens
    add_bos: bool | None
    add_eos: bool
    threads: int | None

    def __post_init__(self) -> None:
        chosen = [f"--{name.replace('_', '-')}" for name in self._chosen()]
        if len(chosen) > 1:
            raise InvalidInput(f"{' and '.join(chosen)} exclude each other.", "Give one of them.")
        if self.lines + self.null + self.jsonl > 1:
            raise InvalidInput("--lines, --null and --jsonl exclude each other.", "Give one.")
        if self.output is not None and self.mode not in ("format", "split"):
            raise InvalidInput("-o goes with --format or --split.", "Redirect stdout instead.")
        if self.overlap and self.split is None:
            raise InvalidInput("--overlap goes with --split.", "Add --split N.")
        if (self.add_bos or self.add_eos) and self.mode in _BARE:
            raise InvalidInput(
                f"--add-bos and --add-eos do not go with {chosen[0]}.", "Leave them out."
            )

    def _chosen(self) -> list[Mode]:
        said: dict[Mode, bool] = {
            "count": self.count,
            "tokens": self.tokens,
            "format": self.format is not None,
            "max_tokens": self.max_tokens is not None,
            "split": self.split is not None,
            "fits": self.fits is not None,
            "compare": bool(self.compare),
        }
        return [mode for mode, chosen in said.items() if chosen]

    @property
    def mode(self) -> Mode:
        """The one thing to do."""
        return next(iter(self._chosen()), "ids")

    @property
    def kind(self) -> RecordKind:
        """What a record is."""
        return (
            "lines" if self.lines else "null" if self.null else "jsonl" if self.jsonl else "whole"
        )


@dataclass(kw_only=True)
class EncodeJob:
    """A call's tokenizer, input and output; counts the records that failed."""

    console: Console
    settings: EncodeSettings
    tokenizer: Tokenizer
    model: ResolvedModel
    sources: list[Source]
    errors: DecodeErrors
    load: Callable[[str], tuple[Tokenizer, ResolvedModel]]
    watch: Watch | None = None
    seen: int = 0
    failed: int = 0
    warned: bool = False
    front: list[int] = field(default_factory=list)
    back: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        wanted = self.settings.add_bos
        if wanted is None and self.settings.mode not in _BARE:
            wanted = self.tokenizer.bos_id is not None and self.tokenizer.adds_bos
        if wanted:
            self.front = [_required(self.tokenizer.bos_id, "begin-of-text", "--add-bos")]
        if self.settings.add_eos:
            self.back = [_required(self.tokenizer.eos_id, "end-of-text", "--add-eos")]

    @property
    def extra(self) -> int:
        """How many tokens are added to each record."""
        return len(self.front) + len(self.back)

    def records(self) -> Iterator[Record]:
        """The records that have a text; one that has none is reported.

        With ``--json`` it becomes an error record, otherwise the call ends with its error.
        """
        for record in self._all():
            self.seen += 1
            if record.error is None:
                yield record
            else:
                self._report(record)

    def encoded(self) -> Iterator[tuple[Record, Piece]]:
        """The records of a batch, each with its tokens, encoded side by side."""
        from llmcli.tokenization.large_text import encode_texts

        waiting: deque[Record] = deque()

        def texts() -> Iterator[str]:
            for record in self._all():
                waiting.append(record)
                yield "" if record.error else record.text

        pieces = encode_texts(
            self.tokenizer,
            texts(),
            special=self.settings.special,
            threads=self.settings.threads,
        )
        for piece in pieces:
            record = waiting.popleft()
            self.seen += 1
            if record.error is None:
                yield record, piece
            else:
                self._report(record)

    def pieces(self, record: Record) -> Iterator[Piece]:
        """The tokens of a record whose text may be of any size."""
        from llmcli.tokenization.large_text import encode_pieces

        return encode_pieces(
            self.tokenizer,
            record.parts,
            special=self.settings.special,
            threads=self.settings.threads,
        )

    def id_lists(self, record: Record) -> Iterator[list[int]]:
        """The ids of a record of any size, with those that are added, in lists."""
        from llmcli.tokenization.round_trip import RoundTrip

        trip = None if self.exact else RoundTrip(self.tokenizer)
        if trip is not None:
            record = replace(record, parts=trip.reading(record.parts))
        yield self.front
        for piece in self.pieces(record):
            if trip is not None:
                trip.made(piece.ids)
            yield piece.ids
        yield self.back
        if trip is not None and not trip.same:
            self.warn_of_change()

    @cached_property
    def exact(self) -> bool:
        """Whether decoding gives back every text, whatever it is."""
        from llmcli.tokenization.round_trip import keeps_every_text

        return keeps_every_text(self.tokenizer)

    def warn_of_change(self) -> None:
        """Say, once, that decoding will not give back a text."""
        if not self.warned:
            self.warned = True
            self.console.notice(
                "The model's tokenizer changes this text: decode will not give back the same bytes."
            )

    def named(self, record: Record) -> dict[str, Any]:
        """The file's name, where there are several whole ones."""
        many = len(self.sources) > 1 and self.settings.kind == "whole"
        return {"file": record.name} if many else {}

    def each_record(self, show: Callable[[Record], None]) -> None:
        """Show each record; what a record's own text makes wrong is that record's error."""
        for record in self.records():
            if self.settings.kind == "whole":
                show(record)
                continue
            try:
                show(record)
            except InvalidInput as exc:
                message = f"{record.place}: {exc.message}"
                error = type(exc)(message, exc.cure)
                self._report(Record(place=record.place, fields=record.fields, error=error))

    def finish(self) -> None:
        """Raise if some of the records were error records.

        Raises:
            BatchHadErrors: they were.
        """
        if self.failed:
            raise BatchHadErrors(
                f"{self.failed} of {self.seen} records are error records.",
                "Look for the field 'error' in the output.",
            )

    def json_fields(self) -> dict[str, Any]:
        """What every JSON record says of the model."""
        return {"model": self.model.name, "revision": self.model.commit}

    def _all(self) -> Iterator[Record]:
        return records(
            self.sources,
            kind=self.settings.kind,
            errors=self.errors,
            text_field=self.settings.field,
            watch=self.watch,
        )

    def _report(self, record: Record) -> None:
        if record.error is None or not self.console.json_output:
            raise record.error or InvalidInput("")
        self.failed += 1
        self.console.record({**record.fields, "error": str(record.error)})


def _required(token_id: int | None, name: str, option: str) -> int:
    if token_id is None:
        raise InvalidInput(f"The tokenizer names no {name} token.", f"Leave {option} out.")
    return token_id

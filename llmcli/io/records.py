"""Input as records: whole sources, lines, NUL-separated parts, JSON lines; memory stays bounded."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Literal

from llmcli.errors import InvalidInput, InvalidText
from llmcli.io.formats import (
    Format,
    FormatName,
    csv_rows,
    decompressed,
    format_of,
    parquet_rows,
)
from llmcli.io.sources import (
    STDIN,
    DecodeErrors,
    check_file,
    decode_utf8,
    read_chunks,
    source_name,
    stdin_is_terminal,
    unread_stdin,
)
from llmcli.reporting import Notify, Progress

RecordKind = Literal["whole", "lines", "null", "jsonl"]
Watch = Callable[[], AbstractContextManager[Progress | None]]
"""Opens a progress bar (such as `download_progress`), which is gone when it is left."""

MAX_RECORD = 64 << 20
MAX_DETAILED = 4 << 20  # characters of a record of which each token is told
_ANNOUNCED = 16 << 20  # a source below this size is read before a bar could be of use


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Consecutive records of a table.

    Attributes:
        first: The number of the first one among all records of the input.
        count: How many.
        offset: Bytes of the file before it, where it has lines of JSON.
        before: Lines (of JSON) or rows (of another table) of the file before it.
    """

    first: int
    count: int
    offset: int = 0
    before: int = 0


@dataclass(frozen=True, slots=True)
class Source:
    """Where bytes come from: an argument's own, or a file's or stdin's.

    Attributes:
        name: The file's, or ``-``.
        data: An argument's bytes.
        called: How messages call it, if not by its name.
        stretch: The records that are meant; None for all.
    """

    name: str
    data: bytes | None = None
    called: str | None = None
    stretch: Stretch | None = None

    @property
    def label(self) -> str:
        """How messages call it."""
        if self.called is not None:
            return self.called
        return "The text" if self.data is not None else source_name(self.name)

    def check(self) -> None:
        """Raise now what opening it would raise later, as far as that can be seen from outside.

        Raises:
            InvalidInput: a missing file or a directory.
        """
        if self.data is None and self.name != STDIN:
            check_file(self.name)

    def chunks(self, watch: Watch | None = None, *, as_it_comes: bool = False) -> Iterator[bytes]:
        """Yield its bytes in pieces; arguments and errors as for `sources.read_chunks`."""
        if self.data is not None:
            yield self.data
            return
        total = _size(self.name)
        done = 0 if self.stretch is None else self.stretch.offset
        with (watch or nullcontext)() as show:
            for chunk in read_chunks(self.name, as_it_comes=as_it_comes, start=done):
                done += len(chunk)
                if show is not None and (total or done) >= _ANNOUNCED:
                    show(self.label, done, total)
                yield chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One text.

    Attributes:
        parts: The text, in parts that are read as they are asked for.
        number: Its place among all records of the input, from 0.
        place: How messages call it ("line 3 of stdin").
        name: The name of its source.
        single: Whether it is its whole source, so that what is wrong with it ends the call.
        fields: What else a JSON record holds.
        error: Why there is no text.
    """

    parts: Iterable[str] = ()
    number: int = 0
    place: str = ""
    name: str = ""
    single: bool = False
    fields: dict[str, Any] = field(default_factory=dict)
    error: InvalidInput | None = None

    @property
    def text(self) -> str:
        """The whole text; to be asked for once where it is read from a stream."""
        return "".join(self.parts)

    def held(
        self,
        use: str,
        *,
        limit: int = MAX_RECORD,
        cure: str = "Cut it first ('split -C 10M'), or give it in lines (--lines).",
    ) -> str:
        """The whole text, for what holds it in memory; as :attr:`text` otherwise.

        Args:
            use: What does, in an error.
            limit: In characters.
            cure: What to do about it.

        Raises:
            InvalidInput: it is longer.
        """
        parts, size = list[str](), 0
        for part in self.parts:
            parts.append(part)
            size += len(part)
            if size > limit:
                raise InvalidInput(
                    f"{self.place} is longer than {limit >> 20} Mi characters, which {use} holds "
                    "in memory.",
                    cure,
                )
        return "".join(parts)


def sources(text: str | None, files: Iterable[str], *, notify: Notify) -> list[Source]:
    """An argument, or files, or stdin where neither is given (``-`` is stdin in both places).

    Raises:
        InvalidInput: nothing to read, both given, or stdin asked for twice.
    """
    found = [Source(name) for name in files]
    if text is not None and found:
        raise InvalidInput("There are a text and a file.", "Give the text, or -i FILE, not both.")
    if text == STDIN:
        found = [Source(STDIN)]
    elif text is not None:
        return _argument(text, notify)
    if not found:
        if stdin_is_terminal():
            raise InvalidInput(
                "There is nothing to read.",
                "Give text as an argument, a file with -i FILE, or pipe it in.",
            )
        return [Source(STDIN)]
    if sum(source.name == STDIN for source in found) > 1:
        raise InvalidInput("stdin is asked for more than once.", "Write '-' in one place only.")
    return found


def _argument(text: str, notify: Notify) -> list[Source]:
    if unread_stdin():
        notify("stdin holds data that was not asked for: write '-' to read it.")
    return [Source("", os.fsencode(text))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns of a table are what.

    Attributes:
        text: The one that holds the text.
        id: The one that names a row, which none may lack; None for none.
    """

    text: str
    id: str | None = None


def records(
    found: Iterable[Source],
    *,
    kind: RecordKind,
    errors: DecodeErrors = "strict",
    columns: Columns = Columns(text="prompt"),
    asked: FormatName | None = None,
    watch: Watch | None = None,
) -> Iterator[Record]:
    """Yield the records of all sources; ``jsonl`` are the rows of tables (:func:`rows_at_hand`).

    A whole source is a record whose parts are read as they are asked for. A line ends before
    its newline, which belongs to no record (a carriage return belongs to it); what follows the
    last separator is a record unless it is empty. Empty lines are records too, but of JSON.

    Raises:
        InvalidInput: a source cannot be read. What is wrong with a single line or JSON record
            is in its ``error`` instead.
        InvalidText: a whole source is not valid UTF-8; raised while its parts are read.
    """
    if kind == "jsonl":
        rows = rows_at_hand(found, columns=columns, errors=errors, asked=asked, watch=watch)
        yield from (row for row in rows if row is not None)
        return
    number = 0
    for source in found:
        chunks = source.chunks(watch)
        if kind == "whole":
            parts = text_parts(chunks, source=source.label, errors=errors)
            yield Record(
                parts=parts, number=number, place=source.label, name=source.name, single=True
            )
            number += 1
            continue
        separator = b"\0" if kind == "null" else b"\n"
        for line, data in enumerate(split_bytes(chunks, separator), 1):
            place = f"{'Record' if kind == 'null' else 'Line'} {line} of {source.label}"
            at: dict[str, Any] = {"number": number, "place": place, "name": source.name}
            yield _text_record(data, at, errors)
            number += 1


def paragraphs(lines: Iterable[Record]) -> Iterator[Record]:
    """Lines joined into paragraphs, which blank lines part; a record each."""
    held: list[str] = []
    first: Record | None = None
    for line in lines:
        text = "" if line.error else line.text
        if line.error or not text.strip() or (first and first.name != line.name):
            if first is not None:
                yield _paragraph(first, held)
            held, first = [], None
        if line.error:
            yield line
        elif text.strip():
            first = first or line
            held.append(text)
    if first is not None:
        yield _paragraph(first, held)


def _paragraph(first: Record, lines: list[str]) -> Record:
    place = first.place.replace("Line", "The paragraph at line", 1)
    return Record(parts=("\n".join(lines),), number=first.number, place=place, name=first.name)


def text_parts(
    chunks: Iterable[bytes], *, source: str, errors: DecodeErrors = "strict"
) -> Iterator[str]:
    """Decode bytes that arrive in pieces, cut anywhere, as UTF-8.

    Raises:
        InvalidText: they are not UTF-8; the message gives the offset in the whole.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    done = 0
    last = b""
    try:
        for chunk in chunks:
            last = decoder.getstate()[0] + chunk
            yield decoder.decode(chunk)
            done += len(last) - len(decoder.getstate()[0])
        last = decoder.getstate()[0]
        if rest := decoder.decode(b"", final=True):
            yield rest
    except UnicodeDecodeError as exc:
        raise InvalidText(
            f"{source} is not valid UTF-8: byte 0x{last[exc.start]:02x} at offset "
            f"{done + exc.start}.",
            "Convert it to UTF-8, or pass --errors replace.",
        ) from exc


def rows_at_hand(
    found: Iterable[Source],
    *,
    columns: Columns,
    errors: DecodeErrors = "strict",
    asked: FormatName | None = None,
    wanted: Callable[[int], bool] | None = None,
    watch: Watch | None = None,
) -> Iterator[Record | None]:
    """Yield the rows of tables as soon as they are there, on a pipe too.

    A source's suffix tells its format (see :func:`llmcli.io.formats.format_of`), unless one was
    ``asked`` for. None stands where the next row may have to be waited for. Rows whose numbers
    are not ``wanted`` are left out, and cost little. Errors as for :func:`records`; what makes
    a whole table unreadable is raised.
    """
    number = 0
    for source in found:
        form = format_of(source.name, asked)
        end = None
        if source.stretch is not None:
            number, end = source.stretch.first, source.stretch.first + source.stretch.count
        table = (_json_rows if form.name == "jsonl" else _rows)(source, form, errors, watch)
        for read, place in table:
            if number == end:
                break
            if read is None:
                yield None
                continue
            if wanted is None or wanted(number):
                at: dict[str, Any] = {"number": number, "place": place, "name": source.name}
                row = read()
                if isinstance(row, InvalidInput):
                    yield Record(**at, error=row)
                else:
                    yield _field_record(row, at, columns)
            number += 1


_Row = dict[str, Any] | str | InvalidInput
_Rows = Iterator[tuple[Callable[[], _Row] | None, str]]
"""What reads a row, and how messages call it; None where the next may have to be waited for."""


def _rows(source: Source, form: Format, errors: DecodeErrors, watch: Watch | None) -> _Rows:
    """The rows of a table that names its columns once."""
    before = 0 if source.stretch is None else source.stretch.before
    if form.name == "parquet":
        if source.name in ("", STDIN):
            raise InvalidInput("Parquet cannot be read from a pipe.", "Give it with -i FILE.")
        rows: Iterable[dict[str, Any] | InvalidInput] = parquet_rows(source.name, skip=before)
    else:
        chunks = decompressed(source.chunks(watch), form.compression, source.label)
        delimited: Literal["csv", "tsv"] = "csv" if form.name == "csv" else "tsv"
        rows = csv_rows(split_bytes(chunks, b"\n"), delimited, source.label, errors)
    for number, row in enumerate(rows, before + 1):
        yield partial(_same, row), f"Row {number} of {source.label}"
    yield None, ""


def _same(row: _Row) -> _Row:
    return row


def _json_rows(source: Source, form: Format, errors: DecodeErrors, watch: Watch | None) -> _Rows:
    """The values of JSON lines."""
    splitter = _Splitter(b"\n")
    number = 0 if source.stretch is None else source.stretch.before
    chunks = decompressed(source.chunks(watch, as_it_comes=True), form.compression, source.label)
    for chunk in chain(chunks, [None]):
        for data in splitter.end() if chunk is None else splitter.feed(chunk):
            number += 1
            if data is None or data.strip():
                place = f"Line {number} of {source.label}"
                yield partial(_json_value, data, place, errors), place
        yield None, ""


def split_bytes(chunks: Iterable[bytes], separator: bytes) -> Iterator[bytes | None]:
    """Split a stream of bytes; None stands for a part of more than 64 MiB, which is skipped."""
    splitter = _Splitter(separator)
    for chunk in chunks:
        yield from splitter.feed(chunk)
    yield from splitter.end()


class _Splitter:
    """Splits bytes that arrive in pieces, cut anywhere."""

    def __init__(self, separator: bytes) -> None:
        self._separator = separator
        self._rest: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[bytes | None]:
        """Yield the parts that a piece completes."""
        *whole, last = chunk.split(self._separator)
        for part in whole:
            self._rest.append(part)
            yield b"".join(self._rest) if self._size + len(part) <= MAX_RECORD else None
            self._rest, self._size = [], 0
        self._size += len(last)
        if self._size <= MAX_RECORD:
            self._rest.append(last)
        else:
            self._rest = []

    def end(self) -> Iterator[bytes | None]:
        """Yield what follows the last separator, unless it is empty."""
        if self._size:
            yield b"".join(self._rest) if self._size <= MAX_RECORD else None


def _too_long(place: str) -> InvalidInput:
    return InvalidInput(
        f"{place} is longer than {MAX_RECORD >> 20} MiB.", "Split it, or give it as a file."
    )


def _text_record(data: bytes | None, at: dict[str, Any], errors: DecodeErrors) -> Record:
    if data is None:
        return Record(**at, error=_too_long(at["place"]))
    try:
        text = decode_utf8(data, source=at["place"], errors=errors)
    except InvalidText as exc:
        return Record(**at, error=exc)
    return Record(parts=(text,), **at)


def _json_value(data: bytes | None, place: str, errors: DecodeErrors) -> _Row:
    """What a line of JSON holds: an object (an empty one for what is none), or a text."""
    if data is None:
        return _too_long(place)
    try:
        text = decode_utf8(data.removeprefix(codecs.BOM_UTF8), source=place, errors=errors)
        value = json.loads(text)
    except InvalidText as exc:
        return exc
    except (ValueError, RecursionError) as exc:
        reason = "it is nested too deeply" if isinstance(exc, RecursionError) else str(exc)
        return InvalidInput(f"{place} is not JSON: {reason}.", "Write one JSON object a line.")
    return value if isinstance(value, dict | str) else {}


def _field_record(value: dict[str, Any] | str, at: dict[str, Any], columns: Columns) -> Record:
    """The record of a row, whose text is in one of its fields or all of it."""
    fields = {columns.text: value} if isinstance(value, str) else value
    if columns.id is not None:
        name = fields.get(columns.id)
        if not isinstance(name, str | int):
            error = InvalidInput(
                f"{at['place']} has neither a text nor a number in the field {columns.id!r}.",
                "Name the field with --id-field.",
            )
            return Record(**at, fields=fields, error=error)
        at = {**at, "place": f"{at['place']} ({columns.id} {_shown(name)})"}
    text = fields.get(columns.text)
    if not isinstance(text, str):
        error = InvalidInput(
            f"{at['place']} has no text in the field {columns.text!r}.",
            "Name the field with --field.",
        )
        return Record(**at, fields=fields, error=error)
    return Record(parts=(text,), **at, fields=fields)


def _shown(name: str | int) -> str:
    text = json.dumps(name, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _size(name: str) -> int | None:
    if name == STDIN:
        return None
    try:
        return os.stat(name).st_size or None
    except OSError:
        return None


def whole_size(found: Iterable[Source]) -> int | None:
    """How many bytes there are in all; None where nobody knows before they are read."""
    sizes = [len(each.data) if each.data is not None else _size(each.name) for each in found]
    return None if None in sizes else sum(size or 0 for size in sizes)

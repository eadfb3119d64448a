"""Formats of tables: JSON lines, CSV and TSV, Parquet, plain or compressed.

A row is an object by column. What cannot be read of a single row stands in its place as an
error; what makes the whole file unreadable is raised.
"""

from __future__ import annotations

import codecs
import csv
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from llmcli.errors import InvalidInput, InvalidText
from llmcli.extras import missing_package
from llmcli.io.remote import is_remote, open_remote
from llmcli.io.sources import DecodeErrors, decode_utf8

FormatName = Literal["jsonl", "csv", "tsv", "parquet"]
Compression = Literal["gzip", "zstd"]

FORMATS: tuple[FormatName, ...] = get_args(FormatName)
_SUFFIXES: dict[str, FormatName] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_COMPRESSED: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_DELIMITERS = {"csv": ",", "tsv": "\t"}
_LONGEST_LINE = 64 << 20
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Format:
    """How a table is written.

    Attributes:
        name: The kind of table.
        compression: Around it; None where there is none.
    """

    name: FormatName
    compression: Compression | None = None

    @property
    def appendable(self) -> bool:
        """Whether rows can be added to a file that may be cut off anywhere."""
        return self.name == "jsonl" and self.compression is None


def format_of(path: str, asked: FormatName | None = None) -> Format:
    """The format that a file's suffixes tell (``rows.csv.gz``); JSON lines where they are silent.

    Args:
        path: A file's name, or ``-``.
        asked: What was asked for by name; the suffix tells the compression alone then.
    """
    told, compression = _told(path)
    name = asked or told or "jsonl"
    return Format(name, None if name == "parquet" else compression)


def is_table(path: str) -> bool:
    """Whether a file's suffixes tell that it is a table, and not plain text."""
    return _told(path)[0] is not None


def _told(path: str) -> tuple[FormatName | None, Compression | None]:
    """What a file's suffixes tell."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    compression = _COMPRESSED.get(suffixes[-1]) if suffixes else None
    if compression is not None:
        suffixes.pop()
    return _SUFFIXES.get(suffixes[-1]) if suffixes else None, compression


def decompressed(
    chunks: Iterable[bytes], compression: Compression | None, source: str
) -> Iterator[bytes]:
    """Undo a compression; memory stays bounded whatever it was made of.

    Raises:
        InvalidInput: the bytes are something else, or cut short.
        LlmcliError: zstd, before Python 3.14, without the package for it.
    """
    if compression is None:
        yield from chunks
        return
    new, error = _decompressors(compression)
    decompressor = new()
    begun = False
    try:
        for chunk in chunks:
            data = chunk
            while data:
                if decompressor.eof:  # one file after another is one file
                    decompressor = new()
                begun = True
                yield from _pieces(decompressor, data)
                data = decompressor.unused_data
    except error as exc:
        raise InvalidInput(
            f"{source} is not valid {compression}: {exc}.", "Compress it anew."
        ) from exc
    if begun and not decompressor.eof:
        raise InvalidInput(f"{source} is cut short ({compression}).", "Compress it anew.")


def _decompressors(compression: Compression) -> tuple[Callable[[], Any], type[Exception]]:
    if compression == "gzip":
        return (lambda: _Gzip()), zlib.error
    zstd = _zstd()
    return zstd.ZstdDecompressor, zstd.ZstdError


def _zstd() -> Any:
    import sys
    from importlib import import_module

    try:
        return import_module(
            "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        )
    except ImportError as exc:
        raise missing_package("Reading and writing .zst files", "parquet") from exc


class _Gzip:
    """zlib's decompressor with the interface of zstd's."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail or data, max_length)


def _pieces(decompressor: Any, data: bytes) -> Iterator[bytes]:
    """Decompress in pieces of bounded size: a few bytes may stand for gigabytes."""
    most = 1 << 20
    piece = decompressor.decompress(data, most)
    while piece or not decompressor.needs_input:
        if piece:
            yield piece
        if decompressor.eof or (decompressor.needs_input and len(piece) < most):
            return
        piece = decompressor.decompress(b"", most)


def csv_rows(
    lines: Iterable[bytes | None],
    name: Literal["csv", "tsv"],
    source: str,
    errors: DecodeErrors = "strict",
) -> Iterator[dict[str, Any] | InvalidInput]:
    """Read CSV (RFC 4180) or TSV with a header; every value is a text.

    Args:
        lines: Without their newlines; None for one that is too long to read.
        name: Which of the two.
        source: How messages call the file.
        errors: What is done with bytes that are not UTF-8.

    Raises:
        InvalidInput: there is no header, or it names a column twice.
        InvalidText: the header is not valid UTF-8.
    """
    reader = csv.reader(_csv_text(lines, source, errors), delimiter=_DELIMITERS[name], strict=True)
    limit = csv.field_size_limit(_LONGEST_LINE)
    try:
        header = next(reader, None)
        if not header:
            raise InvalidInput(f"{source} has no header.", "Name the columns in its first line.")
        twice = next((column for column in header if header.count(column) > 1), None)
        if twice is not None:
            raise InvalidInput(f"{source} has two columns {twice!r}.", "Give them two names.")
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except (csv.Error, InvalidText) as exc:
                place = f"Line {reader.line_num} of {source}"
                wrong = exc if isinstance(exc, InvalidText) else None
                yield wrong or InvalidInput(f"{place} is no {name.upper()}: {exc}.", "Correct it.")
                continue
            if not row:
                continue
            if len(row) != len(header):
                yield InvalidInput(
                    f"Line {reader.line_num} of {source} has {len(row)} values; the header has "
                    f"{len(header)}.",
                    "Give each row as many.",
                )
                continue
            yield dict(zip(header, row, strict=True))
    finally:
        csv.field_size_limit(limit)


class _csv_text:
    """Lines as text with their newlines, which a quoted value may hold.

    An iterator of its own: a generator would be over after the first line it cannot decode.
    """

    def __init__(self, lines: Iterable[bytes | None], source: str, errors: DecodeErrors) -> None:
        self._lines = iter(lines)
        self._source = source
        self._errors: DecodeErrors = errors
        self._number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._number += 1
        if line is None:
            raise InvalidText(
                f"Line {self._number} of {self._source} is longer than {_LONGEST_LINE >> 20} MiB.",
                "Shorten it.",
            )
        if self._number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        place = f"Line {self._number} of {self._source}"
        return decode_utf8(line, source=place, errors=self._errors) + "\n"


def parquet_rows(path: str, *, skip: int = 0) -> Iterator[dict[str, Any]]:
    """Read a Parquet file a batch of rows at a time; values keep their types.

    Args:
        path: A file's name, or a URI.
        skip: Rows to leave out at the beginning.

    Raises:
        InvalidInput: it is none, or cannot be opened.
        LlmcliError: pyarrow is not installed.
    """
    with _open_parquet(path) as file:
        groups = list(range(file.num_row_groups))
        while groups and (rows := file.metadata.row_group(groups[0]).num_rows) <= skip:
            skip -= rows
            del groups[0]
        if not groups:
            return
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, row_groups=groups):
            left_out, skip = skip, max(skip - len(batch), 0)
            yield from batch.slice(left_out).to_pylist()


def parquet_length(path: str) -> int:
    """How many rows a Parquet file says that it has; errors as for :func:`parquet_rows`."""
    with _open_parquet(path) as file:
        return int(file.metadata.num_rows)


@contextmanager
def _open_parquet(path: str) -> Iterator[Any]:
    parquet = _parquet()
    import pyarrow

    try:
        opened = open_remote(path) if is_remote(path) else path
        with parquet.ParquetFile(opened) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as exc:
        reason = str(exc).splitlines()[0].rstrip(".")
        raise InvalidInput(
            f"{path} cannot be read as Parquet: {reason}.", "Check the file."
        ) from exc


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as exc:
        raise missing_package("Parquet", "parquet") from exc
    return pyarrow.parquet


def write_rows(lines: Iterable[bytes], out: BinaryIO, form: Format) -> None:
    """Write JSON lines in another format; nested values are JSON in CSV, and nested in Parquet.

    Columns are those of all rows, in the order in which they come up. The lines are read twice
    for CSV and Parquet, so they must be a file or a sequence.

    Raises:
        LlmcliError: what the format needs is not installed.
    """
    if form.name == "jsonl":
        _write_compressed(lines, out, form.compression)
    elif form.name == "parquet":
        _write_parquet(lines, out)
    else:
        _write_compressed(_csv_lines(lines, _DELIMITERS[form.name]), out, form.compression)


def _write_compressed(
    lines: Iterable[bytes], out: BinaryIO, compression: Compression | None
) -> None:
    if compression is None:
        out.writelines(lines)
        return
    compressor: Any = (
        zlib.compressobj(wbits=31) if compression == "gzip" else _zstd().ZstdCompressor()
    )
    for line in lines:
        out.write(compressor.compress(line))
    out.write(compressor.flush())


def _columns(lines: Iterable[bytes]) -> list[str]:
    found: dict[str, None] = {}
    for line in lines:
        found.update(dict.fromkeys(json.loads(line)))
    return list(found)


def _rewound(lines: Iterable[bytes]) -> Iterable[bytes]:
    if hasattr(lines, "seek"):
        lines.seek(0)
    return lines


def _csv_lines(lines: Iterable[bytes], delimiter: str) -> Iterator[bytes]:
    import io

    columns = _columns(lines)
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")

    def written(values: list[Any]) -> bytes:
        text.seek(0)
        text.truncate()
        writer.writerow(values)
        return text.getvalue().encode("utf-8")

    yield written(columns)
    for line in _rewound(lines):
        row = json.loads(line)
        yield written([_flat(row.get(column)) for column in columns])


def _flat(value: Any) -> Any:
    """A value as CSV has it: a text as it is, nothing for null, everything else as JSON."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _write_parquet(lines: Iterable[bytes], out: BinaryIO) -> None:
    parquet = _parquet()
    import pyarrow

    def tables() -> Iterator[Any]:
        rows: list[dict[str, Any]] = []
        for line in _rewound(lines):
            rows.append(json.loads(line))
            if len(rows) == _ROWS_AT_ONCE:
                yield pyarrow.Table.from_pylist(_uniform(rows, columns))
                rows = []
        if rows:
            yield pyarrow.Table.from_pylist(_uniform(rows, columns))

    columns = _columns(lines)
    schema = None
    for table in tables():
        found = table.schema
        schema = (
            found
            if schema is None
            else pyarrow.unify_schemas([schema, found], promote_options="permissive")
        )
    if schema is None:
        schema = pyarrow.schema([])
    with parquet.ParquetWriter(out, schema) as writer:
        for table in tables():
            writer.write_table(table.cast(schema))


def _uniform(rows: list[dict[str, Any]], columns: list[str]) -> list[dict[str, Any]]:
    return [{column: row.get(column) for column in columns} for row in rows]

"""An input cut into partitions, the same way on every cluster and on every run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from llmcli.io.fingerprint import Fingerprint
from llmcli.io.formats import FormatName, format_of, parquet_length
from llmcli.io.records import Columns, Source, Stretch, rows_at_hand


@dataclass(frozen=True, slots=True)
class Survey:
    """What one file of the input holds.

    Attributes:
        known: What it is known by.
        records: How many it has.
        starts: Where each partition begins: bytes, and lines or rows, before it.
    """

    known: Fingerprint
    records: int
    starts: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Partition:
    """Consecutive records of one file, which become one part of the output.

    Attributes:
        number: Its place among all partitions.
        index: Which file's.
        stretch: Its records.
    """

    number: int
    index: int
    stretch: Stretch


def survey(source: Source, rows: int, asked: FormatName | None) -> Survey:
    """Read a file through, and find where to cut it.

    A file that can be entered at its beginning alone (CSV, or anything compressed) is one
    partition.

    Args:
        source: The file.
        rows: Records of a partition.
        asked: The format, where the suffix does not tell.

    Raises:
        InvalidInput: it cannot be read.
    """
    form = format_of(source.name, asked)
    digest, size = hashlib.sha256(), 0

    def chunks() -> Iterator[bytes]:
        nonlocal size
        for chunk in source.chunks():
            digest.update(chunk)
            size += len(chunk)
            yield chunk

    if form.name == "jsonl" and form.compression is None:
        starts, records = _line_starts(chunks(), rows)
    else:
        for _ in chunks():
            pass
        if form.name == "parquet":
            records = parquet_length(source.name)
            starts = [(0, row) for row in range(0, records, rows)]
        else:
            found = rows_at_hand(
                [source], columns=Columns(text=""), asked=asked, wanted=lambda number: True
            )
            records = sum(each is not None for each in found)
            starts = [(0, 0)] if records else []
    return Survey(Fingerprint(size, digest.hexdigest(), records), records, starts)


def _line_starts(chunks: Iterable[bytes], rows: int) -> tuple[list[tuple[int, int]], int]:
    """Where every so many records of JSON lines begin, and how many there are."""
    starts: list[tuple[int, int]] = []
    begin = lines = records = 0
    position, blank = 0, True

    def end_line() -> None:
        nonlocal records
        if not blank:
            if records % rows == 0:
                starts.append((begin, lines))
            records += 1

    for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for piece in whole:
            blank = blank and not piece.strip()
            end_line()
            position += len(piece) + 1
            begin, lines, blank = position, lines + 1, True
        blank = blank and not rest.strip()
        position += len(rest)
    end_line()
    return starts, records


def partitions(surveys: Sequence[Survey], rows: int) -> Iterator[Partition]:
    """The partitions of all files, in their order; records are numbered over all of them."""
    first = number = 0
    for file, found in enumerate(surveys):
        whole = len(found.starts) <= 1
        for index, (offset, before) in enumerate(found.starts):
            count = found.records if whole else min(rows, found.records - index * rows)
            stretch = Stretch(first=first, count=count, offset=offset, before=before)
            yield Partition(number, file, stretch)
            first, number = first + count, number + 1

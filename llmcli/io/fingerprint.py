"""What a batch's input is known by when it is gone on with, and how many records it has."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from llmcli.io.formats import Format, FormatName, format_of, parquet_length
from llmcli.io.records import Source, Watch
from llmcli.io.remote import is_remote
from llmcli.io.sources import STDIN


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What an input is known by.

    Attributes:
        size: In bytes.
        sha256: Of them, in hexadecimal digits.
        records: How many there are, or about so many (blank lines count, and the newlines in the
            values of CSV); None where nothing tells.
    """

    size: int
    sha256: str
    records: int | None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; only what the input is known by."""
        return {"size": self.size, "sha256": self.sha256}


def fingerprint(
    source: Source, *, asked: FormatName | None = None, watch: Watch | None = None
) -> Fingerprint | None:
    """Read a source through; None for one that can be read only once, and for a stretch.

    Args:
        source: The source.
        asked: Its format, where its suffix does not tell.
        watch: Opens a progress bar.

    Raises:
        InvalidInput: it cannot be read.
    """
    if not _lasts(source):
        return None
    digest, size, lines, last = hashlib.sha256(), 0, 0, b""
    for chunk in source.chunks(watch):
        digest.update(chunk)
        size += len(chunk)
        lines += chunk.count(b"\n")
        last = chunk[-1:]
    lines += last not in (b"", b"\n")
    return Fingerprint(
        size, digest.hexdigest(), _records(source, format_of(source.name, asked), lines)
    )


def total(found: Iterable[Fingerprint | None]) -> int | None:
    """How many records several inputs have together, if that is known."""
    counts = [None if each is None else each.records for each in found]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _lasts(source: Source) -> bool:
    if source.stretch is not None or source.name == STDIN:
        return False
    if source.data is not None or is_remote(source.name):
        return True
    try:
        return stat.S_ISREG(os.stat(source.name).st_mode)
    except OSError:
        return True  # reading it says what is wrong


def _records(source: Source, form: Format, lines: int) -> int | None:
    if form.name == "parquet":
        return parquet_length(source.name)
    if form.compression is not None:
        return None
    return lines if form.name == "jsonl" else max(lines - 1, 0)

"""Token ids as input: arguments, text, JSON, ``.npy``, raw integers; in parts, bounded memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from llmcli.errors import InvalidInput
from llmcli.io.records import MAX_RECORD, split_bytes
from llmcli.io.sources import STDIN, read_chunks, source_name, stdin_is_terminal

if TYPE_CHECKING:
    from llmcli.io.idfile import IdType

InputFormat = Literal["auto", "ids", "json", "npy", "bin"]

_SEPARATORS = re.compile(rb"[\s,]+")
_NUMBER = re.compile(rb"\d{1,10}")
_LONGEST = 1 << 12  # no number is longer, whatever stands around it


@dataclass(frozen=True, slots=True, kw_only=True)
class IdRecord:
    """One sequence of ids.

    Attributes:
        parts: The ids, in lists that are read as they are asked for.
        place: How messages call it.
        number: Its place among the records of its source, from 0.
        fields: What else a JSON record holds.
        single: Whether it is its whole source, so that what is wrong with it ends the call.
        error: Why there are no ids.
    """

    parts: Iterable[list[int]] = ()
    place: str
    number: int = 0
    fields: dict[str, Any] = field(default_factory=dict)
    single: bool = True
    error: InvalidInput | None = None


def read_records(
    ids: Sequence[str], files: Iterable[str], *, form: InputFormat, dtype: IdType
) -> Iterator[IdRecord]:
    """Yield the id sequences of the arguments, of files, or of stdin where neither is given.

    Args:
        ids: Arguments, each with one id or several; "-" alone is stdin.
        files: Names, "-" is stdin.
        form: What files hold; "auto" goes by the name's end, else by the first bytes.
        dtype: The integers of a raw file.

    Raises:
        InvalidInput: nothing to read, or something that is no ids.
    """
    files = list(files)
    if ids and files:
        raise InvalidInput("There are ids and a file.", "Give the ids, or -i FILE, not both.")
    if list(ids) == [STDIN]:
        files = [STDIN]
    elif ids:
        data = " ".join(ids).encode("utf-8", "surrogateescape")
        found = list(_text_ids([data], "The arguments"))  # what is no id is told at once
        return iter([IdRecord(parts=found, place="The arguments")])
    if not files:
        if stdin_is_terminal():
            raise InvalidInput(
                "There is nothing to read.", "Give ids as arguments, with -i FILE, or pipe them in."
            )
        files = [STDIN]
    return chain.from_iterable(_file_records(name, form, dtype) for name in files)


def _file_records(name: str, form: InputFormat, dtype: IdType) -> Iterator[IdRecord]:
    chunks = read_chunks(name)
    place = source_name(name)
    first = next(chunks, b"")
    kind = _kind(name, first) if form == "auto" else form
    everything = chain([first], chunks)
    if kind == "json":
        yield from _json_records(everything, place)
    elif kind == "ids":
        yield IdRecord(parts=_text_ids(everything, place), place=place)
    else:
        from llmcli.io.idfile import read_ids

        reader = _Reader(everything)
        parts = read_ids(
            reader,  # type: ignore[arg-type]
            format="npy" if kind == "npy" else "bin",
            dtype=dtype,
            name=place,
        )
        yield IdRecord(parts=parts, place=place)


def _kind(name: str, first: bytes) -> InputFormat:
    if first.startswith(b"\x93NUMPY"):
        return "npy"
    if name.endswith(".bin"):
        return "bin"
    return "json" if first.lstrip()[:1] in (b"[", b"{") else "ids"


class _Reader:
    """As much of a binary file as `read_ids` needs, over pieces that come once."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; fewer only at the end."""
        parts, have = [self._rest], len(self._rest)
        while have < size and (chunk := next(self._chunks, b"")):
            parts.append(chunk)
            have += len(chunk)
        data = b"".join(parts)
        self._rest = data[size:]
        return data[:size]


def _text_ids(chunks: Iterable[bytes], place: str) -> Iterator[list[int]]:
    """Whole numbers between spaces, commas and newlines."""
    rest, position = b"", 0
    for chunk in chain(chunks, [b" "]):
        *words, rest = _SEPARATORS.split(rest + chunk)
        if len(rest) > _LONGEST:
            words.append(rest)
        numbers = [word for word in words if word]
        for index, word in enumerate(numbers):
            if not _NUMBER.fullmatch(word):
                shown = word[:40].decode("utf-8", "replace")
                raise InvalidInput(
                    f"{place}: {shown!r} at position {position + index} is not a token id.",
                    "Give whole numbers, separated by spaces, commas or newlines.",
                )
        position += len(numbers)
        yield list(map(int, numbers))


def _json_records(chunks: Iterable[bytes], place: str) -> Iterator[IdRecord]:
    """A JSON document, or one on each line."""
    lines = enumerate(split_bytes(chunks, b"\n"), 1)
    line_number, line = next(lines, (1, b""))
    try:
        first = json.loads(line or b"")
    except (ValueError, RecursionError):
        # Not a line by itself: one document over several lines.
        rest = [line, *(each for _, each in lines)]
        whole = b"\n".join(each for each in rest if each is not None)
        if None in rest or len(whole) > MAX_RECORD:
            raise _not_json(place, f"over {MAX_RECORD >> 20} MiB in one document") from None
        yield _json_record(whole, place, single=True)
        return
    following = next(lines, None)
    yield _json_record_of(first, place, single=following is None)
    number = 0
    for line_number, line in chain([following] if following else [], lines):
        if line is None or line.strip():
            number += 1
            place_here = f"Line {line_number} of {place}"
            yield _json_record(line, place_here, number=number, single=False)


def _json_record(data: bytes | None, place: str, *, number: int = 0, single: bool) -> IdRecord:
    try:
        if data is None:
            raise ValueError(f"longer than {MAX_RECORD >> 20} MiB")
        return _json_record_of(json.loads(data), place, number=number, single=single)
    except (ValueError, RecursionError) as exc:
        error = _not_json(place, str(exc))
        return IdRecord(place=place, number=number, single=single, error=error)


def _json_record_of(value: Any, place: str, *, number: int = 0, single: bool) -> IdRecord:
    fields = value if isinstance(value, dict) else {}
    ids = fields.get("ids", value)
    if isinstance(ids, list) and all(type(each) is int for each in ids):
        return IdRecord(parts=[ids], place=place, number=number, fields=fields, single=single)
    error = InvalidInput(
        f"{place} holds no token ids.", 'Give a list of whole numbers, or {"ids": [...]}.'
    )
    return IdRecord(place=place, number=number, fields=fields, single=single, error=error)


def _not_json(place: str, reason: str) -> InvalidInput:
    return InvalidInput(f"{place} is not JSON: {reason}.", "Write one list or object a line.")

"""Files of token ids: raw little-endian integers, and NumPy's ``.npy`` around the same.

Both can be mapped into memory (``numpy.memmap``, ``numpy.load(mmap_mode="r")``), so a training
run reads them without loading them. Written and read here without NumPy, whose import would take
longer than most calls.
"""

from __future__ import annotations

import ast
import sys
from array import array
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Literal

from llmcli.errors import InvalidInput

__all__ = ["IdFormat", "IdType", "id_type", "read_ids", "write_ids"]

IdFormat = Literal["npy", "bin"]
IdType = Literal["uint16", "uint32"]

_CODES: dict[str, str] = {"uint16": "H", "uint32": "I"}
_MAGIC = b"\x93NUMPY"
_HEADER_SIZE = 128  # a multiple of 64, with room for any length
# What numpy.save may write for whole numbers: byte order and size -> array's code.
_NPY_CODES = {
    "u1": "B",
    "i1": "b",
    "u2": "H",
    "i2": "h",
    "u4": "I",
    "i4": "i",
    "u8": "Q",
    "i8": "q",
}
_CHUNK = 1 << 20


def id_type(vocab_size: int) -> IdType:
    """The smallest type that holds every id of a vocabulary."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def write_ids(file: BinaryIO, ids: Iterable[list[int]], *, format: IdFormat, dtype: IdType) -> int:
    """Write ids that come in lists; returns how many.

    Args:
        file: Where to; for "npy" it must be seekable, because the count stands in front.
        ids: Lists of ids, in order.
        format: "bin" is the integers alone, "npy" has NumPy's header (version 1.0).
        dtype: The integers' type, little-endian.

    Raises:
        InvalidInput: an id does not fit the type.
    """
    if format == "npy":
        file.write(_header(0, dtype))
    count = 0
    for part in ids:
        try:
            numbers = array(_CODES[dtype], part)
        except OverflowError as exc:
            raise InvalidInput(f"A token id does not fit into {dtype}.", "Use uint32.") from exc
        if sys.byteorder == "big":
            numbers.byteswap()
        file.write(numbers.tobytes())
        count += len(numbers)
    if format == "npy":
        file.seek(0)
        file.write(_header(count, dtype))
        file.seek(0, 2)
    return count


def _header(count: int, dtype: IdType) -> bytes:
    code = {"uint16": "<u2", "uint32": "<u4"}[dtype]
    text = f"{{'descr': '{code}', 'fortran_order': False, 'shape': ({count},), }}"
    size = _HEADER_SIZE - len(_MAGIC) - 4
    return _MAGIC + b"\x01\x00" + size.to_bytes(2, "little") + text.ljust(size - 1).encode() + b"\n"


def read_ids(file: BinaryIO, *, format: IdFormat, dtype: IdType, name: str) -> Iterator[list[int]]:
    """Read ids in lists.

    Args:
        file: Where from, at its beginning; need not be seekable.
        format: As in `write_ids`.
        dtype: The type of a "bin" file; an "npy" file says its own.
        name: What an error calls the file.

    Raises:
        InvalidInput: not such a file, not whole numbers in one dimension, or cut short.
    """
    code, swapped, expected = _CODES[dtype], sys.byteorder == "big", None
    if format == "npy":
        code, swapped, expected = _read_header(file, name)
    size, count, rest = array(code).itemsize, 0, b""
    while data := file.read(_CHUNK):
        data = rest + data
        whole = len(data) - len(data) % size
        numbers, rest = array(code, data[:whole]), data[whole:]
        if swapped:
            numbers.byteswap()
        count += len(numbers)
        yield numbers.tolist()
    if rest or (expected is not None and count != expected):
        raise InvalidInput(
            f"{name} is cut short: it ends inside a number, or before the count it states.",
            "Write it again, or name its type (--dtype).",
        )


def _read_header(file: BinaryIO, name: str) -> tuple[str, bool, int]:
    """The array code, whether bytes must be swapped, and how many numbers follow."""
    start = file.read(10)
    wide = start[6:7] in (b"\x02", b"\x03")  # versions 2 and 3 have two more bytes of length
    size = int.from_bytes(start[8:10] + (file.read(2) if wide else b""), "little")
    try:
        if not start.startswith(_MAGIC) or size > 1 << 16:
            raise ValueError("no header")
        header = ast.literal_eval(file.read(size).decode("latin-1"))
        order, kind = header["descr"][0], header["descr"][1:]
        code, (count,) = _NPY_CODES[kind], header["shape"]
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError) as exc:
        raise InvalidInput(
            f"{name} is not a .npy file of whole numbers in one dimension.",
            "Write ids with numpy.save, or use another format (--format).",
        ) from exc
    swapped = order != "|" and (order == ">") != (sys.byteorder == "big")
    return code, swapped, int(count)

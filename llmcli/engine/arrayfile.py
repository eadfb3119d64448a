"""Named arrays in one file, to be used where they lie.

::

    array, padding, array, padding, ...   each begins at a multiple of 64 bytes
    directory                             JSON: {"about": ..., "arrays": {name: [dtype, shape, at]}}
    length of the directory               8 bytes, little-endian
    b"llmcli-arrays-1\\n"                  16 bytes

The directory stands at the end, so that a file is written in one pass with one array in memory,
and a file that was cut short has none.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_MAGIC = b"llmcli-arrays-1\n"
_ALIGNMENT = 64  # a line of the processor's caches
_AT_ONCE = 64 << 20
_DTYPES = frozenset({"float32", "float16", "int8", "uint8", "int16", "uint16", "int32", "int64"})


class Writer:
    """Writes arrays one after another; :meth:`close` ends the file.

    Args:
        file: Open for writing in binary, at its beginning.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._at = 0
        self._arrays: dict[str, tuple[str, tuple[int, ...], int]] = {}

    def add(self, name: str, array: Array) -> None:
        """Write an array.

        Raises:
            OSError: it cannot be written.
            ValueError: its type has no name here.
        """
        if array.dtype.name not in _DTYPES:
            raise ValueError(f"no type of an array file: {array.dtype}")
        self._pad()
        self._arrays[name] = (array.dtype.name, array.shape, self._at)
        data = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        for start in range(0, len(data), _AT_ONCE):
            self._file.write(data[start : start + _AT_ONCE])
        self._at += len(data)

    def close(self, about: Mapping[str, Any]) -> None:
        """Write the directory, with what the file is about, and bring it all to the disk."""
        self._pad()
        directory = json.dumps({"about": about, "arrays": self._arrays}).encode()
        self._file.write(directory + len(directory).to_bytes(8, "little") + _MAGIC)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _pad(self) -> None:
        padding = -self._at % _ALIGNMENT
        self._file.write(bytes(padding))
        self._at += padding


class ArrayFile:
    """A file that :class:`Writer` wrote.

    Attributes:
        path: Where it is.
        about: What it is about.

    Raises:
        ValueError: it is no such file, or was cut short or altered where that can be seen.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - 24))
            end = file.read(24)
            length = int.from_bytes(end[:8], "little")
            if len(end) < 24 or end[8:] != _MAGIC or length > size - 24:
                raise ValueError(f"{path} is no array file, or was cut short")
            file.seek(size - 24 - length)
            try:
                directory = json.loads(file.read(length))
                self.about: dict[str, Any] = dict(directory["about"])
                self._arrays = {
                    name: (np.dtype(dtype), tuple(map(int, shape)), int(at))
                    for name, (dtype, shape, at) in directory["arrays"].items()
                }
            except (KeyError, TypeError, AttributeError, RecursionError, ValueError) as exc:
                raise ValueError(f"{path} has a damaged directory") from exc
        self._size = size - 24 - length
        for dtype, shape, at in self._arrays.values():
            nbytes = dtype.itemsize * math.prod(shape)
            sizes = min(shape, default=0) >= 0 and 0 <= at <= at + nbytes <= self._size
            if dtype.name not in _DTYPES or not sizes or at % _ALIGNMENT:
                raise ValueError(f"{path} has a damaged directory")

    def mapped(self) -> dict[str, Array]:
        """All arrays, read-only: a page is read from the disk when it is touched."""
        if not self._size:
            return {name: np.empty(s, d) for name, (d, s, _) in self._arrays.items()}
        with open(self.path, "rb") as file:
            data = mmap.mmap(file.fileno(), self._size, access=mmap.ACCESS_READ)
        return self._over(data)

    def _over(self, data: mmap.mmap) -> dict[str, Array]:
        return {
            name: np.frombuffer(data, dtype, math.prod(shape), at).reshape(shape)
            for name, (dtype, shape, at) in self._arrays.items()
        }

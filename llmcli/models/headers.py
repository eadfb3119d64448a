"""What a safetensors file says it holds, read without loading anything of it.

The format: eight bytes with the header's length (little-endian), the header (JSON: each tensor's
dtype, shape and place), then the tensors, one after the other with no gaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from llmcli.errors import CorruptModel
from llmcli.hub.cache import is_plain_name
from llmcli.hub.reference import quoted
from llmcli.io.model_files import read_regular

FETCH_AGAIN = "Fetch the model again (llmcli models pull NAME --refresh)."

_LARGEST_HEADER = 100 * 2**20
_LARGEST_INDEX = 64 * 2**20
_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}


# The types that weights can have; others belong to tables, such as a causal mask.
FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor's type and shape.

    Attributes:
        dtype: As safetensors spells it, such as F32 or BF16.
        shape: Sizes of its dimensions.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Read the names, types and shapes of a file's tensors.

    Raises:
        CorruptModel: The file is missing, cut short, something else, or contradicts itself.
    """
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if length > min(_LARGEST_HEADER, size - 8) or len(start) < 8:
                _refuse_other_content(path, start, size)
            header = file.read(length)
    except OSError as error:
        raise CorruptModel(
            f"Cannot read {quoted(str(path))}: {error.strerror}.", FETCH_AGAIN
        ) from error
    try:
        content = json.loads(header)
    except (ValueError, RecursionError):
        _refuse(path, "has a header that is no JSON")
    return _read_tensors(path, content, size - 8 - length)


def read_index(index: Path) -> dict[str, str]:
    """Read which tensor is in which file of a model that has several.

    Raises:
        CorruptModel: It is unreadable, or names something that is no file of the same folder.
    """
    try:
        content = json.loads(read_regular(index, _LARGEST_INDEX, cure=FETCH_AGAIN))
    except OSError as error:
        raise CorruptModel(
            f"Cannot read {quoted(str(index))}: {error.strerror}.", FETCH_AGAIN
        ) from error
    except (ValueError, RecursionError):
        _refuse(index, "is no JSON")
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        _refuse(index, "has no weight_map")
    for name in places.values():
        if not is_plain_name(name):
            _refuse(index, f"names {quoted(str(name))}, which is no file of the same folder")
    if not isinstance(content.get("metadata"), dict):
        raise CorruptModel(
            f"{quoted(str(index))} has no metadata, without which transformers reads no index.",
            'Add "metadata": {} to it, or make a clean copy: llmcli models repair DIR -o DIR2.',
        )
    return places


def read_headers(files: Iterable[Path], index: Path | None) -> dict[str, TensorInfo]:
    """Read all headers of a model; an index must agree with them.

    Raises:
        CorruptModel: As `read_header` and `read_index`, or a tensor is not where the index says.
    """
    by_file = {path.name: read_header(path) for path in files}
    if index is not None:
        for tensor, name in read_index(index).items():
            if tensor not in by_file.get(name, {}):
                _refuse(index, f"says that {quoted(tensor)} is in {quoted(name)}, which lacks it")
    return {tensor: info for header in by_file.values() for tensor, info in header.items()}


def _read_tensors(path: Path, content: Any, body: int) -> dict[str, TensorInfo]:
    if not isinstance(content, dict):
        _refuse(path, "has a header that is no JSON object")
    tensors, places = {}, []
    for name, entry in content.items():
        if name == "__metadata__":
            continue
        info, first, last = _read_entry(path, name, entry)
        if last - first != (info.size * _BITS[info.dtype] + 7) // 8 or first > last:
            _refuse(path, f"gives {quoted(name)} a place that does not fit its shape")
        tensors[name] = info
        places.append((first, last, name))
    end = 0
    for first, last, name in sorted(places):
        if first != end:
            _refuse(path, f"has a gap or an overlap before {quoted(name)}")
        end = last
    if end > body:
        _refuse(path, f"is cut short: {body:,} of {end:,} bytes of weights are there")
    if end < body:
        _refuse(path, f"has {body - end:,} bytes too many")
    if not tensors:
        _refuse(path, "holds no weights")
    return tensors


def _read_entry(path: Path, name: str, entry: Any) -> tuple[TensorInfo, int, int]:
    fields: Mapping[str, Any] = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if isinstance(dtype, str) and dtype in _BITS and _are_sizes(shape) and _are_sizes(offsets):
        match offsets:
            case [first, last]:
                return TensorInfo(dtype, tuple(shape)), first, last
    return _refuse(path, f"describes {quoted(name)} in a way that cannot be understood")


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**48 for n in value)


def _refuse_other_content(path: Path, start: bytes, size: int) -> NoReturn:
    if start == b"version ":
        raise CorruptModel(
            f"{quoted(str(path))} is a git-lfs pointer, not the weights themselves.",
            "Run `git lfs pull` in its folder, or fetch the model with llmcli models pull.",
        )
    if size < 8:
        _refuse(path, "is empty or cut short")
    if start.decode("latin-1").isprintable():
        _refuse(path, "is text, not weights")
    _refuse(path, f"is cut short or no safetensors file ({size:,} bytes)")


def _refuse(path: Path, what: str) -> NoReturn:
    raise CorruptModel(f"{quoted(str(path))} {what}.", FETCH_AGAIN)

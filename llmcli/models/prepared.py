"""Weights made ready for the fast decoder, so that the second run starts fast.

The first load of a model goes through transformers, which reads and checks it. What the fast
decoder needs is then kept in our own cache folder, and later runs import torch alone: for
float32 a note that the files were fine, upon which they are mapped and nothing is copied; for
the other precisions the quantised layers too. Any doubt, such as another size or time of a
file, another version of torch or of this format, goes the transformers way again.

::

    $XDG_CACHE_HOME/llmcli/prepared/     (~/.cache/llmcli/prepared)
        HASH-int8.safetensors            HASH: of the model folder's path
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import tempfile
from collections import ChainMap
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli.hub import cache
from llmcli.hub.inventory import not_deleted
from llmcli.hub.reference import ModelReference
from llmcli.models.precision import settle_precision

if TYPE_CHECKING:
    from torch import Tensor

    from llmcli.engine.gpt2_weights import GPT2Weights
    from llmcli.engine.kernels import Precision
    from llmcli.models.language_model import LanguageModel

_FORMAT = 2
_HUGE_PAGES_FROM = 32 << 20
_ALIGNMENT = 64  # of a tensor in memory: a line of the processor's caches


def prepared_folder() -> Path:
    """Where prepared weights are kept; it need not exist."""
    parent = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return Path(os.path.expanduser(parent)) / "llmcli" / "prepared"


def prepared_files(folder: Path) -> list[Path]:
    """The files prepared of the model in a folder, whether or not they still fit it."""
    return sorted(prepared_folder().glob(f"{_folder_hash(folder)}-*.safetensors"))


def remove_prepared(reference: ModelReference) -> int:
    """Delete what was prepared of a cached model, or of one revision of it; returns its size.

    Raises:
        StorageError: A file could not be deleted.
    """
    root = cache.cache_folder()
    if reference.revision is None:
        repository = cache.repository_folder(root, reference.name)
        folders = list((repository / "snapshots").glob("*"))
    else:
        commit = cache.commit_of(root, reference.name, reference.revision)
        folders = [commit.folder] if commit else []
    freed = 0
    for path in [path for folder in folders for path in prepared_files(folder)]:
        try:
            size = path.stat().st_size
            path.unlink()
        except OSError as error:
            raise not_deleted(path, error) from error
        freed += size
    return freed


def gpt2_weights(model: LanguageModel) -> GPT2Weights:
    """Return a GPT-2 model's weights for the fast decoder, prepared ones where they are there.

    A precision that cannot be had here gives way to a finer one, with a notice; the model's
    ``precision`` says what it became.

    Raises:
        ModelError: transformers cannot load the model; see :func:`llmcli.models.weights`.
        OutOfMemory: it does not fit.
    """
    from llmcli.engine.gpt2_weights import GPT2Weights

    if model.device != "cpu":
        return GPT2Weights.from_module(model.module)
    precision = settle_precision(model, decoding=True)
    path = prepared_folder() / f"{_folder_hash(model.folder)}-{precision}.safetensors"
    key = _key(model, precision)
    if "module" not in model.__dict__ and key is not None:
        with model.timed("prepared weights"):
            weights = _read(model, path, key)
        if weights is not None:
            return weights
    return _prepare(model, precision, path, key)


def _folder_hash(folder: Path) -> str:
    return hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:24]


def _weight_files(model: LanguageModel) -> list[Path]:
    """The safetensors files of a model; empty where it has others."""
    files = cache.weight_files(model.folder, allow_pickle=model.allow_pickle)
    weights = [path for path in files if path.suffix != ".json"]
    return weights if all(path.suffix == ".safetensors" for path in weights) else []


def _key(model: LanguageModel, precision: str) -> str | None:
    """Everything that the prepared weights depend on; None where nothing can be prepared."""
    import torch

    from llmcli.engine.kernels import decodes_natively

    files = _weight_files(model)
    if not files:
        return None
    states = [(path.name, path.resolve().name, path.stat()) for path in files]
    return json.dumps(
        {
            "format": _FORMAT,
            "torch": torch.__version__,
            "processor": torch.backends.cpu.get_cpu_capability(),
            "native": decodes_natively(),
            "precision": precision,
            "revision": model.resolved.commit,
            "config": hashlib.sha256((model.folder / "config.json").read_bytes()).hexdigest(),
            "files": [
                [name, target, stat.st_size, stat.st_mtime_ns, stat.st_ino]
                for name, target, stat in states
            ],
        }
    )


# -- the second run --------------------------------------------------------------------------


def _read(model: LanguageModel, path: Path, key: str) -> GPT2Weights | None:
    """Build the weights of prepared ones; None where there are none that fit."""
    from llmcli.engine.gpt2_weights import GPT2Shape, assemble, store
    from llmcli.engine.huge_pages import reserve_huge_pages
    from llmcli.engine.kernels import decodes_natively

    header = _header(path)
    if header is None or header[0].get("__metadata__", {}).get("key") != key:
        return None
    shape = GPT2Shape.from_config(model.config)
    mapped = _map(_weight_files(model))
    if model.precision == "float32":
        return assemble(shape, dict(store(shape, mapped, "float32")))
    unquantised = dict(store(shape, mapped, None))
    stored: Any
    if decodes_natively():
        stored = _in_one_block(path, *header)
    else:
        if (size := path.stat().st_size) > _HUGE_PAGES_FROM:
            reserve_huge_pages(size)
        stored = _File(path, *header)
    try:
        return assemble(shape, ChainMap(unquantised, stored))
    except (KeyError, ValueError):  # not what was written
        return None


def _header(path: Path) -> tuple[dict[str, Any], int] | None:
    """A safetensors file's header and where its data begins; None where anything is odd."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = os.fstat(file.fileno()).st_size
            header = json.loads(file.read(length)) if 0 < length < size else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(header, dict):
        return None
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return (header, 8 + length) if 8 + length + max(ends, default=0) == size else None


def _map(files: list[Path]) -> dict[str, Tensor]:
    """All tensors of safetensors files, mapped: a page is read when it is touched."""
    from safetensors import safe_open

    tensors: dict[str, Tensor] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors


def _in_one_block(path: Path, header: Mapping[str, Any], start: int) -> dict[str, Tensor]:
    """A safetensors file's tensors, for use as they are: one block of memory, in huge pages.

    With pages of 4 KiB a step over 124 MB needs 30,000 address translations, which on a virtual
    machine walk two levels of tables.
    """
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    places, end = {}, 0
    for name, entry in entries.items():
        places[name] = end
        first, last = entry["data_offsets"]
        end += -(-(last - first) // _ALIGNMENT) * _ALIGNMENT
    block = mmap.mmap(-1, max(end, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            block.madvise(mmap.MADV_HUGEPAGE)
    with open(path, "rb") as file, memoryview(block) as view:
        for name, entry in entries.items():
            first, last = entry["data_offsets"]
            file.seek(start + first)
            file.readinto(view[places[name] : places[name] + last - first])
    return {
        name: _tensor(block, entry, offset=places[name])  # keeps the block
        for name, entry in entries.items()
    }


def _tensor(data: Any, entry: Mapping[str, Any], *, offset: int = 0) -> Tensor:
    """The tensor of a header's entry over the bytes that it stands for."""
    import torch

    types = {
        "I8": torch.int8,
        "U8": torch.uint8,
        "I64": torch.int64,
        "F16": torch.float16,
        "F32": torch.float32,
        "BF16": torch.bfloat16,
    }
    count = math.prod(entry["shape"])
    dtype = types[entry["dtype"]]
    return torch.frombuffer(data, dtype=dtype, count=count, offset=offset).view(entry["shape"])


class _File(Mapping[str, "Tensor"]):
    """A safetensors file's tensors, each read when it is asked for and not kept.

    They are packed into another form at once; a map would keep both in memory until the last.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], start: int) -> None:
        self._path = path
        self._start = start
        self._entries = {name: header[name] for name in header if name != "__metadata__"}

    def __getitem__(self, name: str) -> Tensor:
        entry = self._entries[name]
        first, last = entry["data_offsets"]
        with open(self._path, "rb") as file:
            file.seek(self._start + first)
            data = bytearray(last - first)
            file.readinto(data)
        return _tensor(data, entry)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


# -- the first run ---------------------------------------------------------------------------


def _prepare(
    model: LanguageModel, precision: Precision, path: Path, key: str | None
) -> GPT2Weights:
    """Load through transformers, and keep what the next run needs."""
    from llmcli.engine.gpt2_weights import GPT2Shape, assemble, store
    from llmcli.models.weights import load_module

    shape = GPT2Shape.from_config(model.config)
    if precision == "float32":
        stored = dict(store(shape, model.module.state_dict(), "float32"))
        keep: dict[str, Tensor] = {}
    else:
        state = load_module(model, exact=True).state_dict()
        with model.timed("quantise"):
            stored = dict(store(shape, state, precision, decoding=True))
        plain = dict(store(shape, state, None))
        keep = {name: tensor for name, tensor in stored.items() if name not in plain}
    if key is not None and key == _key(model, precision):
        with model.timed("write prepared weights"):
            _write(path, keep, key)
    return assemble(shape, stored)


def _write(path: Path, tensors: Mapping[str, Tensor], key: str) -> None:
    """Write atomically; a cache that cannot be written is no reason to fail."""
    from safetensors.torch import save_file

    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".preparing-")
        os.close(handle)
        save_file(dict(tensors), temporary, metadata={"key": key})
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        if temporary:
            Path(temporary).unlink(missing_ok=True)

"""A clean copy of a model's folder: one file of weights under the names that everybody reads."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmcli.errors import CorruptModel, InvalidInput, StorageError
from llmcli.hub import cache
from llmcli.hub.reference import quoted
from llmcli.hub.resolve import ResolvedModel
from llmcli.io.model_files import LARGEST_TOKENIZER, read_regular, regular_files, tokenizer_files
from llmcli.models.check import TABLES, WRAPPERS
from llmcli.models.config import read_config, read_generation_config
from llmcli.models.headers import FLOATS, TensorInfo, read_header
from llmcli.models.options import LoadOptions
from llmcli.tokenization.tokenizer import Tokenizer

__all__ = ["Repaired", "repair"]

_LAST = "config.json"


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was done.

    Attributes:
        folder: The copy.
        changes: A sentence for each difference.
    """

    folder: Path
    changes: list[str] = field(default_factory=list)


def repair(source: Path, target: Path) -> Repaired:
    """Write a clean copy of a model.

    Names lose what torch.compile and wrappers put in front of them, tables and heads that no
    language model has are left out, tied heads are stored once, all weights have one type,
    shards become one file, and a tokenizer of any form becomes tokenizer.json. The copy has been
    loaded before it is there.

    Args:
        source: A model's folder.
        target: The copy's folder; must not exist, or be empty.

    Raises:
        InvalidInput: The target is in use.
        CorruptModel, UnsupportedModel, UnsafeModel: The source cannot be made a model.
        StorageError: The copy cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InvalidInput(f"{quoted(str(target))} is there already.", "Name a new folder with -o.")
    changes: list[str] = []
    read_config(source / _LAST)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=".repairing-"))
    except OSError as error:
        raise _not_written(target, error) from error
    try:
        rough, clean = scratch / "rough", scratch / "clean"
        rough.mkdir()
        _copy_settings(source, rough, changes)
        _copy_tokenizer(source, rough, changes)
        dtype = _gather(source, rough, changes)
        _save_loaded(rough, clean, dtype, changes)
        if target.is_dir():
            target.rmdir()
        os.replace(clean, target)
    except OSError as error:
        raise _not_written(target, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Repaired(target, changes)


def _copy_settings(source: Path, folder: Path, changes: list[str]) -> None:
    shutil.copyfile(source / _LAST, folder / _LAST)
    name = "generation_config.json"
    try:
        settings = read_generation_config(source / name)
    except CorruptModel as error:
        changes.append(f"left out {name}: {error.message}")
        return
    if settings:
        (folder / name).write_text(json.dumps(settings, indent=2), "utf-8")


def _copy_tokenizer(source: Path, folder: Path, changes: list[str]) -> None:
    names = regular_files(source)
    if "tokenizer.json" in names:
        for name in tokenizer_files(names):
            (folder / name).write_bytes(read_regular(source / name, LARGEST_TOKENIZER))
        return
    tokenizer = Tokenizer.from_folder(source)
    (folder / "tokenizer.json").write_text(tokenizer.backend.to_str(), "utf-8")
    named = {
        f"{kind}_token": tokenizer.token_string(token_id)
        for kind, token_id in (("bos", tokenizer.bos_id), ("eos", tokenizer.eos_id))
        if token_id is not None
    }
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), "utf-8")
    changes.append("made tokenizer.json of " + ", ".join(tokenizer_files(names)))


def _gather(source: Path, folder: Path, changes: list[str]) -> str:
    """Put all weights into one file, under clean names; returns the type most of them have."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    files = _weight_files(source)
    infos: dict[str, TensorInfo] = {}
    tensors: dict[str, Any] = {}
    dropped = 0
    for path in files:
        infos |= (header := read_header(path))
        with safe_open(path, framework="pt") as file:
            for name in header:
                if TABLES.search(name):
                    dropped += 1
                    continue
                tensors[WRAPPERS.sub("", name, count=1)] = file.get_tensor(name)
    wrapped = {match[0] for name in infos if (match := WRAPPERS.match(name))}
    changes += [f"took {prefix} from the names" for prefix in sorted(wrapped)]
    if dropped:
        changes.append(f"left out {dropped} tables that are no weights")
    if len(files) > 1:
        changes.append(f"joined {len(files)} files of weights")
    integers = [name for name in tensors if infos.get(name, _FLOAT).dtype not in FLOATS]
    if integers:
        raise CorruptModel(
            f"{quoted(str(source))}: {quoted(integers[0])} is of an integer type, and weights are "
            "floating-point numbers.",
            "Such a file cannot be repaired: make it anew.",
        )
    save_file(tensors, folder / cache.SAFETENSORS, metadata={"format": "pt"})
    sizes: Counter[str] = Counter()
    for info in infos.values():
        sizes[info.dtype] += info.size
    most = sizes.most_common(1)[0][0]
    if len({info.dtype for info in infos.values() if info.dtype in FLOATS}) > 1 or most == "F64":
        changes.append(f"gave all weights one type, {_TYPES.get(most, 'float32')}")
    return _TYPES.get(most, "float32")


_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_FLOAT = TensorInfo("F32", ())


def _weight_files(source: Path) -> list[Path]:
    single = source / cache.SAFETENSORS
    if single.is_file():
        return [single]
    shards = [path for path in sorted(source.glob("*.safetensors")) if path.is_file()]
    if not shards:
        raise CorruptModel(
            f"{quoted(str(source))} has no weights in the safetensors format.",
            "Convert them first.",
        )
    return shards


def _save_loaded(rough: Path, clean: Path, dtype: str, changes: list[str]) -> None:
    """Load what was gathered, checked as any model, and save it as transformers does."""
    import torch

    from llmcli.models.loader import load_resolved
    from llmcli.models.weights import quiet_transformers

    said: list[str] = []
    options = LoadOptions(device="cpu")
    loaded = load_resolved(ResolvedModel(rough.name, "folder", rough), options, notify=said.append)
    loaded.tokenizer  # noqa: B018 - checked against the rows
    module = loaded.module
    changes += [sentence for sentence in said if "left out" in sentence]
    with quiet_transformers():
        module.to(getattr(torch, dtype)).save_pretrained(clean)
    before = set(read_header(rough / cache.SAFETENSORS))
    after = {name for path in clean.glob("*.safetensors") for name in read_header(path)}
    if before != after:
        changes.append("gave the tensors the names that transformers stores, tied ones once")
    for path in rough.iterdir():
        if not (clean / path.name).exists() and path.name != cache.SAFETENSORS:
            shutil.copyfile(path, clean / path.name)


def _not_written(target: Path, error: OSError) -> StorageError:
    return StorageError(
        f"The copy cannot be written to {quoted(str(target))}: {error.strerror}.",
        "Name another folder with -o.",
    )

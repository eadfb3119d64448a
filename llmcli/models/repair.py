"""A clean copy of a model's folder: one file of weights under the names that everybody reads."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from llmcli.errors import CorruptModel, InvalidInput, StorageError, UnsafeModel
from llmcli.hub import cache
from llmcli.hub.reference import quoted
from llmcli.hub.resolve import ResolvedModel
from llmcli.io.model_files import LARGEST_TOKENIZER, read_regular, regular_files, tokenizer_files
from llmcli.models.check import NORM_PARTS, OLD_NORMS, TABLES, WRAPPERS
from llmcli.models.config import read_config, read_generation_config
from llmcli.models.headers import read_header
from llmcli.models.kinds import Kind
from llmcli.models.options import LoadOptions
from llmcli.reporting import working
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


def repair(source: Path, target: Path, *, allow_pickle: bool = False) -> Repaired:
    """Write a clean copy of a model.

    Names lose what torch.compile and wrappers put in front of them and what old checkpoints call
    the parts of a norm, tables and heads that no language model has are left out, tied heads are
    stored once, all weights have one type, shards and pickles become one safetensors file, and a
    tokenizer of any form becomes tokenizer.json. The copy has been loaded before it is there.

    Args:
        source: A model's folder.
        target: The copy's folder; must not exist, or be empty.
        allow_pickle: Read pickled weights where there are no others.

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
        working(f"reading {source}")
        _copy_settings(source, rough, changes)
        _copy_tokenizer(source, rough, changes)
        dtype = _gather(source, rough, changes, allow_pickle=allow_pickle)
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


def _gather(source: Path, folder: Path, changes: list[str], *, allow_pickle: bool) -> str:
    """Put all weights into one file, under clean names; returns the type most of them have."""
    from safetensors.torch import save_file

    files = _weight_files(source, allow_pickle=allow_pickle)
    tensors: dict[str, Any] = {}
    sizes: Counter[str] = Counter()
    renamed: dict[str, str] = {}
    dropped = 0
    for name, tensor in (item for path in files for item in _read(path)):
        if TABLES.search(name):
            dropped += 1
            continue
        dtype = str(tensor.dtype).removeprefix("torch.")
        if not tensor.is_floating_point():
            raise CorruptModel(
                f"{quoted(str(source))}: {quoted(name)} is of an integer type, and weights are "
                "floating-point numbers.",
                "Such a file cannot be repaired: make it anew.",
            )
        sizes[dtype] += tensor.numel()
        tensors[_clean_name(name, renamed)] = tensor
    changes += renamed.values()
    if dropped:
        changes.append(f"left out {dropped} tables that are no weights")
    if len(files) > 1:
        changes.append(f"joined {len(files)} files of weights")
    if files[0].suffix == ".bin":
        changes.append("made safetensors of pickled weights")
    save_file(tensors, folder / cache.SAFETENSORS, metadata={"format": "pt"})
    most = sizes.most_common(1)[0][0]
    chosen = most if most in _TYPES else "float32"
    if len(sizes) > 1 or chosen != most:
        changes.append(f"gave all weights one type, {chosen}")
    return chosen


_TYPES = ("float32", "float16", "bfloat16")


def _clean_name(name: str, renamed: dict[str, str]) -> str:
    """A tensor's usual name; what was changed is noted once for each kind."""
    if match := WRAPPERS.match(name):
        renamed[match[0]] = f"took {match[0]} from the names"
        name = name[match.end() :]
    if match := OLD_NORMS.search(name):
        old, new = match[2], NORM_PARTS[match[2]]
        renamed[old] = f"called {old} {new}"
        name = f"{name.removesuffix(old)}{new}"
    return name


def _read(path: Path) -> Iterator[tuple[str, Any]]:
    """The tensors of a file of weights, by their names."""
    if path.suffix == ".bin":
        yield from _read_pickle(path).items()
        return
    from safetensors import safe_open

    header = read_header(path)
    with safe_open(path, framework="pt") as file:
        for name in header:
            yield name, file.get_tensor(name)


def _read_pickle(path: Path) -> dict[str, Any]:
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UnsafeModel(
            f"{quoted(str(path))} holds something else than tensors, which is not read.",
            "Choose a model with safetensors.",
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CorruptModel(
            f"{quoted(str(path))} is no file of weights, or is damaged.", "Fetch it again."
        ) from error
    if not isinstance(found, dict) or not all(map(torch.is_tensor, found.values())):
        raise CorruptModel(
            f"{quoted(str(path))} holds no plain dictionary of tensors.",
            "Save the model's state_dict() alone.",
        )
    # Tied tensors share their memory, which safetensors does not store.
    return {str(name): tensor.contiguous().clone() for name, tensor in found.items()}


def _weight_files(source: Path, *, allow_pickle: bool) -> list[Path]:
    single = source / cache.SAFETENSORS
    if single.is_file():
        return [single]
    shards = [path for path in sorted(source.glob("*.safetensors")) if path.is_file()]
    if shards:
        return shards
    pickled = [path for path in sorted(source.glob("pytorch_model*.bin")) if path.is_file()]
    if pickled and not allow_pickle:
        raise UnsafeModel(
            f"{quoted(str(source))} has its weights in pickle files only, which can run code.",
            "Give --allow-pickle if you trust whoever made them.",
        )
    if not pickled:
        raise CorruptModel(
            f"{quoted(str(source))} has no weights in the safetensors format.",
            "Convert them first.",
        )
    return pickled


def _save_loaded(rough: Path, clean: Path, dtype: str, changes: list[str]) -> None:
    """Load what was gathered, checked as any model, and save it as transformers does."""
    import torch

    from llmcli.models.loader import load_resolved
    from llmcli.models.weights import quiet_transformers

    said: list[str] = []
    options = LoadOptions(device="cpu")
    loaded = load_resolved(
        ResolvedModel(rough.name, "folder", rough),
        options,
        kinds=get_args(Kind),
        notify=said.append,
    )
    loaded.tokenizer  # noqa: B018 - checked against the rows
    module = loaded.module
    changes += [sentence for sentence in said if "left out" in sentence]
    working("writing the copy")
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

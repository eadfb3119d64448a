"""An adapter (PEFT's LoRA and its like) and its base model -> a model like any other.

They are merged once, and the result is kept by what it was made of, so that every command and
every later start sees a plain folder.

::

    $XDG_CACHE_HOME/llmcli/merged/HASH/     (~/.cache/llmcli/merged)
        sources.json                        the folders that it was made of

A copy goes when its adapter or its base model goes, and when the adapter is merged anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmcli.errors import CorruptModel, StorageError, UnsupportedModel
from llmcli.extras import install_command
from llmcli.hub.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter
from llmcli.hub.inventory import not_deleted
from llmcli.hub.reference import quoted
from llmcli.hub.resolve import ResolvedModel
from llmcli.io.model_files import LARGEST_TOKENIZER, read_regular, regular_files, tokenizer_files
from llmcli.models.headers import read_header
from llmcli.models.prepared import remove_prepared
from llmcli.reporting import Notify, silent

_FORMAT = 2
_SOURCES = "sources.json"
_TEMPORARY = ".merging-"
_ABANDONED = 3600.0  # seconds: no merge takes so long


def merged_folder() -> Path:
    """Where merged models are kept; it need not exist."""
    parent = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return Path(os.path.expanduser(parent)) / "llmcli" / "merged"


def merge_adapter(base: ResolvedModel, adapter: Path, *, notify: Notify = silent) -> ResolvedModel:
    """Return a model with an adapter merged into it; made once, then found.

    Args:
        base: The model that the adapter was trained on.
        adapter: The adapter's folder.
        notify: Told when it has to be made.

    Raises:
        UnsupportedModel: peft is not installed, or cannot use the adapter.
        CorruptModel: The adapter's files are not what they should be, or fit another model.
        StorageError: The merged model cannot be written.
    """
    read_adapter(adapter)
    read_header(adapter / ADAPTER_WEIGHTS)
    digest = hashlib.sha256(f"{_FORMAT} {base.revision}".encode())
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        with open(adapter / name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    folder = merged_folder() / digest.hexdigest()[:32]
    if not (folder / "config.json").is_file():
        notify(f"The adapter is merged into {base.folder}, once; the result is kept in {folder}.")
        _make(base, adapter, folder)
    return replace(base, folder=folder, commit=None, origin="folder")


def remove_merged(sources: Iterable[Path]) -> int:
    """Delete what was merged of adapters or base models in these folders; returns its size.

    Raises:
        StorageError: Something could not be deleted.
    """
    gone = {str(folder.resolve()) for folder in sources}
    return sum(
        _remove(copy)
        for copy, (base, adapter) in _copies()
        if not gone.isdisjoint({str(base), str(adapter)})
    )


def _copies() -> Iterator[tuple[Path, tuple[Path, Path]]]:
    """The merged models, each with the folders of its base model and of its adapter."""
    for path in sorted(merged_folder().glob(f"*/{_SOURCES}")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(path.read_bytes())
            yield path.parent, (Path(found["base"]), Path(found["adapter"]))


def _prune(adapter: Path) -> None:
    """Delete earlier copies of an adapter, copies without sources, and what killed runs left."""
    for copy, (base, other) in list(_copies()):
        if other == adapter.resolve() or not (base.is_dir() and other.is_dir()):
            with suppress(StorageError):
                _remove(copy)
    for path in merged_folder().glob(f"{_TEMPORARY}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED:
                shutil.rmtree(path)


def _remove(copy: Path) -> int:
    freed = remove_prepared([copy])
    try:
        freed += sum(path.stat().st_size for path in copy.iterdir())
        shutil.rmtree(copy)
    except OSError as error:
        raise not_deleted(copy, error) from error
    return freed


def _make(base: ResolvedModel, adapter: Path, folder: Path) -> None:
    """Merge, write beside, and rename, so that half of a model is never seen."""
    from llmcli.models.language_model import LanguageModel
    from llmcli.models.weights import quiet_transformers

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _prune(adapter)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=_TEMPORARY))
    except OSError as error:
        raise _not_written(folder, error) from error
    plain = LanguageModel(resolved=base, device="cpu", precision="float32")
    try:
        module = _merge(plain.module, adapter)
        with quiet_transformers():
            module.to(_stored_type(base.folder)).save_pretrained(scratch)
        source = adapter if tokenizer_files(regular_files(adapter)) else base.folder
        for name in tokenizer_files(regular_files(source)):
            (scratch / name).write_bytes(read_regular(source / name, LARGEST_TOKENIZER))
        if (base.folder / "generation_config.json").is_file():
            shutil.copyfile(
                base.folder / "generation_config.json", scratch / "generation_config.json"
            )
        sources = {"base": str(base.folder.resolve()), "adapter": str(adapter.resolve())}
        (scratch / _SOURCES).write_text(json.dumps(sources), "utf-8")
        os.replace(scratch, folder)
    except OSError as error:
        if not (folder / "config.json").is_file():  # else another run was faster
            raise _not_written(folder, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _merge(module: Any, adapter: Path) -> Any:
    from llmcli.models.weights import quiet_transformers

    try:
        from peft import PeftModel
    except ImportError as error:
        raise UnsupportedModel(
            f"{quoted(str(adapter))} holds an adapter, and peft is not installed.",
            f"Run: {install_command('lora')}",
        ) from error
    try:
        with quiet_transformers():
            return PeftModel.from_pretrained(module, str(adapter)).merge_and_unload()
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        said = " ".join(str(error).split())[:200].rstrip(".")
        raise CorruptModel(
            f"The adapter in {quoted(str(adapter))} does not fit its base model: {said}.",
            "Check base_model_name_or_path in its adapter_config.json.",
        ) from error


def _stored_type(folder: Path) -> Any:
    """The type that config.json says weights are stored in; float32 where it says none."""
    import torch

    config = json.loads(read_regular(folder / "config.json", LARGEST_TOKENIZER))
    named = config.get("dtype") or config.get("torch_dtype")
    types = {"float16": torch.float16, "bfloat16": torch.bfloat16}
    return types.get(named, torch.float32) if isinstance(named, str) else torch.float32


def _not_written(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"The merged model cannot be written to {quoted(str(folder))}: {error.strerror}.",
        "XDG_CACHE_HOME names another place for it.",
    )

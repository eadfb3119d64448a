"""What is on this machine: bundled and cached models, their sizes, what a folder describes."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmcli.errors import ModelNotFound, StorageError
from llmcli.hub import cache
from llmcli.hub.cache import find_commit, missing_files, repository_folder
from llmcli.hub.reference import ModelReference, bundled_models, is_commit, quoted
from llmcli.hub.resolve import ResolvedModel
from llmcli.models.check import Inspection, check_model_folder
from llmcli.models.config import (
    HEAD_KEYS,
    LAYER_KEYS,
    POSITION_KEYS,
    WIDTH_KEYS,
    first_size,
    text_part,
)
from llmcli.models.prepared import prepared_files

# Tables that old GPT-2 and GPT-NeoX files carry among their weights: constants, no parameters.
_BUFFER = re.compile(r"\.(?:attn|attention)\.(?:masked_)?bias$|\.rotary_emb\.inv_freq$")
_LICENCE = re.compile(r"^license:\s*['\"]?([A-Za-z0-9][A-Za-z0-9 ._+-]{0,63})['\"]?\s*$", re.M)
_LONGEST_CARD = 2**20


@dataclass(frozen=True)
class LocalModel:
    """A bundled model, or one commit of a cached one.

    Attributes:
        name: What ``-m`` takes.
        origin: Where it came from.
        folder: Where its files are.
        revision: The commit; None for a bundled model.
        references: Branches and tags that stand at the commit.
        size: Bytes on disk; what commits share counts for each.
        last_used: Seconds since the epoch at which a file was last read, as far as the file
            system keeps that; None without files.
        complete: Whether it can be loaded as it is.
    """

    name: str
    origin: Literal["bundled", "hub"]
    folder: Path
    revision: str | None
    references: tuple[str, ...]
    size: int
    last_used: float | None
    complete: bool


def list_models() -> list[LocalModel]:
    """All bundled and cached models, bundled ones first, then by name."""
    found = [_describe(name, "bundled", folder) for name, folder in bundled_models().items()]
    root = cache.cache_folder()
    for name in cache.cached_names(root):
        repository = repository_folder(root, name)
        references = dict(_references(repository))
        for folder in sorted((repository / "snapshots").iterdir()):
            if not is_commit(folder.name):
                continue
            names = sorted(r for r, commit in references.items() if commit == folder.name)
            found.append(_describe(name, "hub", folder, tuple(names)))
    return found


def describe_folder(model: ResolvedModel) -> dict[str, Any]:
    """What a model is, from its config.json, its card and the headers of its weights.

    Raises:
        CorruptModel, UnsupportedModel, UnsafeModel: As `check_model_folder`.
    """
    found = check_model_folder(model.folder, allow_pickle=True, trust_remote_code=True)
    config, part = found.config, text_part(found.config)
    architectures = config.get("architectures")
    named = architectures if isinstance(architectures, list) and architectures else [None]
    files = {path.name: path.stat().st_size for path in _files(model.folder)}
    return {
        "name": model.name,
        "origin": model.origin,
        "revision": model.commit,
        "folder": str(model.folder),
        "architecture": named[0] if isinstance(named[0], str) else None,
        "model_type": config["model_type"],
        "parameters": _parameters(found),
        "dtype": _dtype(found),
        "n_positions": _size(part, (*POSITION_KEYS, "n_ctx")),
        "vocab_size": _size(part, ("vocab_size",)),
        "n_layer": _size(part, LAYER_KEYS),
        "n_embd": _size(part, WIDTH_KEYS),
        "n_head": _size(part, HEAD_KEYS),
        "pickled": found.pickled,
        "license": _licence(model.folder),
        "size": sum(files.values()),
        "prepared": sum(path.stat().st_size for path in prepared_files(model.folder)),
        "files": files,
    }


def cached_size(reference: ModelReference) -> int:
    """Bytes that a cached model takes, unfinished downloads and all revisions included.

    Raises:
        ModelNotFound: It is not in the cache.
    """
    root = cache.cache_folder()
    folder = repository_folder(root, reference.name)
    revision = reference.revision
    if not folder.is_dir() or (revision and not find_commit(root, reference.name, revision)):
        raise ModelNotFound(
            f"{quoted(reference.name)} is not in the cache {quoted(str(root))}.",
            "llmcli models list shows what is.",
        )
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_symlink())


def remove_cached(reference: ModelReference) -> int:
    """Delete a cached model, or one revision of it; returns the bytes that came free.

    Raises:
        ModelNotFound: It is not in the cache.
        StorageError: Something could not be deleted.
    """
    before = cached_size(reference)
    root = cache.cache_folder()
    folder = repository_folder(root, reference.name)
    commit = find_commit(root, reference.name, reference.revision)
    before += _remove_prepared(folder, commit.folder if reference.revision and commit else None)
    if reference.revision is not None and commit is not None:
        _delete_revision(root, commit.commit)
        if commit.folder.exists():
            raise _not_deleted(commit.folder, None)
        return before - cached_size(ModelReference(reference.name))
    try:
        # Whatever is in there: half of a download is no repository that a library could list.
        shutil.rmtree(folder)
        shutil.rmtree(root / ".locks" / folder.name, ignore_errors=True)
    except OSError as error:
        raise _not_deleted(folder, error) from error
    return before


def _remove_prepared(repository: Path, snapshot: Path | None) -> int:
    """Delete what was prepared of one snapshot, or of all; returns its size."""
    folders = [snapshot] if snapshot is not None else list((repository / "snapshots").glob("*"))
    freed = 0
    for path in [path for folder in folders for path in prepared_files(folder)]:
        try:
            size = path.stat().st_size
            path.unlink()
        except OSError as error:
            raise _not_deleted(path, error) from error
        freed += size
    return freed


def _delete_revision(root: Path, commit: str) -> None:
    """Delete a commit and the blobs that no other commit shows."""
    from huggingface_hub import scan_cache_dir

    scan_cache_dir(root).delete_revisions(commit).execute()


def _not_deleted(path: Path, error: OSError | None) -> StorageError:
    reason = error.strerror if error is not None and error.strerror else "not permitted"
    return StorageError(
        f"Cannot delete {quoted(str(path))}: {reason}.", "Correct the folder's permissions."
    )


def _describe(
    name: str,
    origin: Literal["bundled", "hub"],
    folder: Path,
    references: tuple[str, ...] = (),
) -> LocalModel:
    stats = [path.stat() for path in _files(folder)]
    return LocalModel(
        name=name,
        origin=origin,
        folder=folder,
        revision=folder.name if origin == "hub" else None,
        references=references,
        size=sum(stat.st_size for stat in stats),
        last_used=max((max(stat.st_atime, stat.st_mtime) for stat in stats), default=None),
        complete=not missing_files(folder, need="model"),
    )


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.iterdir() if path.is_file())


def _references(repository: Path) -> Iterator[tuple[str, str]]:
    """Each branch and tag with its commit."""
    root = repository / "refs"
    for folder, _, names in os.walk(root):
        for name in names:
            reference = (Path(folder) / name).relative_to(root).as_posix()
            commit = cache.read_reference(repository, reference)
            if commit is not None:
                yield reference, commit


def _parameters(found: Inspection) -> int | None:
    if not found.tensors:
        return None
    return sum(
        info.size
        for name, info in found.tensors.items()
        if not (_BUFFER.search(name) and len(info.shape) != 1)
    )


def _dtype(found: Inspection) -> str | None:
    """The type that most of the weights have, as torch spells it."""
    sizes: dict[str, int] = {}
    for info in found.tensors.values():
        sizes[info.dtype] = sizes.get(info.dtype, 0) + info.size
    if not sizes:
        return None
    spelt = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
    most = max(sizes, key=lambda dtype: sizes[dtype])
    return spelt.get(most, most)


def _size(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    found = first_size(config, keys)
    return None if found is None else found[1]


def _licence(folder: Path) -> str | None:
    """The licence that the front matter of the model's card names."""
    try:
        with open(folder / "README.md", encoding="utf-8", errors="replace") as file:
            card = file.read(_LONGEST_CARD)
    except OSError:
        return None
    front = card.split("\n---", 1)[0] if card.startswith("---") else ""
    match = _LICENCE.search(front)
    return match[1] if match else None

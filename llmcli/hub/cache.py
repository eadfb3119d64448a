"""The Hub cache's layout, read with the standard library.

::

    models--OWNER--NAME/
        refs/main                   the commit that the branch stood at when it was last asked
        snapshots/COMMIT/FILE       links into blobs/
        blobs/HASH                  sha256 (large files) or git's sha1 (small ones)
        .no_exist/COMMIT/FILE       files that the Hub said do not exist

A hit costs no import of huggingface_hub and no network.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmcli.errors import CorruptModel
from llmcli.hub.adapters import ADAPTER_WEIGHTS, is_adapter
from llmcli.hub.reference import is_commit, names_of
from llmcli.io.model_files import has_tokenizer, read_regular, regular_files

Need = Literal["tokenizer", "model"]

SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"

_LARGEST_INDEX = 64 * 2**20


@dataclass(frozen=True)
class CachedModel:
    """One commit of a repository in the cache.

    Attributes:
        folder: ``snapshots/COMMIT``.
        commit: The commit's 40 hexadecimal digits.
    """

    folder: Path
    commit: str


def cache_folder() -> Path:
    """Where the Hub's files are kept: HF_HUB_CACHE, else HF_HOME/hub, else the user's cache."""
    environ = os.environ
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(variable):
            return _expanded(environ[variable])
    if environ.get("HF_HOME"):
        return _expanded(environ["HF_HOME"]) / "hub"
    parent = environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return _expanded(parent) / "huggingface" / "hub"


def repository_folder(cache: Path, name: str) -> Path:
    """The folder of a repository; ``name`` has been checked to be a Hub id."""
    return cache / ("models--" + name.replace("/", "--"))


def cached_names(cache: Path) -> list[str]:
    """The Hub ids of the models in the cache, sorted; whole or not."""
    try:
        folders = [path for path in cache.iterdir() if path.name.startswith("models--")]
    except OSError:
        return []
    return sorted(
        path.name.removeprefix("models--").replace("--", "/", 1)
        for path in folders
        if (path / "snapshots").is_dir()
    )


def find_cached(
    cache: Path,
    name: str,
    revision: str | None,
    *,
    need: Need,
    allow_pickle: bool = False,
) -> CachedModel | None:
    """The cached commit of a model, if every file that is needed is there.

    Args:
        cache: As `cache_folder` gives it.
        name: A Hub id.
        revision: A branch, tag or commit; None is the main branch.
        need: ``"tokenizer"`` for encoding and decoding, ``"model"`` for everything.
        allow_pickle: Whether pickled weights count as weights.
    """
    for each in names_of(name):
        cached = commit_of(cache, each, revision)
        if cached and not missing_files(cached.folder, need=need, allow_pickle=allow_pickle):
            return cached
    return None


def find_commit(cache: Path, name: str, revision: str | None) -> CachedModel | None:
    """The cached commit that a revision means, whether or not all files are there.

    A model that the Hub has under two names is found by both.
    """
    found = (commit_of(cache, each, revision) for each in names_of(name))
    return next((each for each in found if each is not None), None)


def commit_of(cache: Path, name: str, revision: str | None) -> CachedModel | None:
    """As `find_commit`, by this name alone."""
    repository = repository_folder(cache, name)
    commit = revision or "main"
    if not is_commit(commit):
        read = read_reference(repository, commit)
        if read is None:
            return None
        commit = read
    folder = repository / "snapshots" / commit
    return CachedModel(folder, commit) if folder.is_dir() else None


def read_reference(repository: Path, revision: str) -> str | None:
    """The commit in ``refs/REVISION``; None where there is none or it is not a commit."""
    try:
        with open(repository / "refs" / revision, encoding="ascii", errors="replace") as file:
            commit = file.read(64).strip()
    except OSError:
        return None
    return commit if is_commit(commit) else None


def missing_files(folder: Path, *, need: Need, allow_pickle: bool = False) -> list[str]:
    """What a folder lacks, by file name; an empty list where it is complete."""
    if is_adapter(folder):  # the rest is its base model's
        return [] if (folder / ADAPTER_WEIGHTS).is_file() else [ADAPTER_WEIGHTS]
    missing = []
    if not (folder / "config.json").is_file() and need == "model":
        missing.append("config.json")
    if not has_tokenizer(regular_files(folder)):
        missing.append("tokenizer.json")
    if need == "model":
        weights = list(weight_files(folder, allow_pickle=allow_pickle))
        missing += [path.name for path in weights if not path.is_file()]
        if not weights:
            missing.append(SAFETENSORS)
    return missing


def lacks_code(folder: Path) -> bool:
    """Whether config.json names Python code and none is there, as it was not asked for before."""
    try:
        names_code = b'"auto_map"' in read_regular(folder / "config.json", _LARGEST_INDEX)
    except (OSError, CorruptModel):
        return False
    return names_code and next(folder.glob("*.py"), None) is None


def weight_files(folder: Path, *, allow_pickle: bool = False) -> Iterator[Path]:
    """The weight files of a model folder, those that an index names but nobody has included.

    safetensors go first; pickled weights count only where they are allowed. An index that
    cannot be read yields nothing but itself: reading it again, when loading, says why.
    """
    kinds = [(SAFETENSORS, SAFETENSORS_INDEX)]
    if allow_pickle:
        kinds.append((PICKLE, PICKLE_INDEX))
    for single, index in kinds:
        if (folder / single).is_file():
            yield folder / single
            return
        if (folder / index).is_file():
            yield folder / index
            yield from (folder / shard for shard in index_shards(folder / index))
            return


def index_shards(index: Path) -> list[str]:
    """The shard names of an index, sorted; only plain names, whatever else it may say."""
    try:
        content = json.loads(read_regular(index, _LARGEST_INDEX))
    except (OSError, CorruptModel, ValueError, RecursionError):
        return []
    weights = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weights, dict):
        return []
    return sorted({name for name in weights.values() if is_plain_name(name)})


def is_plain_name(name: object) -> bool:
    """Whether a value is the name of a file in the same folder, and nothing cleverer."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= 255
        and name not in (".", "..")
        and not any(character in name for character in "/\\\0")
    )


def _expanded(text: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(text)))

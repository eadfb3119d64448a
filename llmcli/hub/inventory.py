"""What is on this machine: bundled and cached models, and their sizes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmcli.errors import ModelNotFound, StorageError
from llmcli.hub import cache
from llmcli.hub.cache import commit_of, missing_files, repository_folder
from llmcli.hub.reference import ModelReference, bundled_models, is_commit, names_of, quoted


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


def cached_size(reference: ModelReference) -> int:
    """Bytes that a cached model takes, unfinished downloads and all revisions included.

    A model that the Hub has under two names is one model.

    Raises:
        ModelNotFound: It is not in the cache.
    """
    repositories = cached_repositories(reference)
    if not repositories:
        raise ModelNotFound(
            f"{quoted(reference.name)} is not in the cache {quoted(str(cache.cache_folder()))}.",
            "llmcli models list shows what is.",
        )
    return sum(map(_size_of, repositories))


def cached_repositories(reference: ModelReference) -> list[Path]:
    """A model's folders in the cache, one for each name that has the revision asked for."""
    root = cache.cache_folder()
    return [
        folder
        for name in names_of(reference.name)
        if (folder := repository_folder(root, name)).is_dir()
        and (reference.revision is None or commit_of(root, name, reference.revision))
    ]


def cached_snapshots(reference: ModelReference) -> list[Path]:
    """The folders of a cached model's files: of all its revisions, or of the one that is named."""
    root = cache.cache_folder()
    if reference.revision is None:
        folders = cached_repositories(reference)
        return [each for folder in folders for each in (folder / "snapshots").glob("*")]
    found = (commit_of(root, name, reference.revision) for name in names_of(reference.name))
    return [each.folder for each in found if each is not None]


def remove_cached(reference: ModelReference) -> int:
    """Delete a cached model, or one revision of it; returns the bytes that came free.

    Raises:
        ModelNotFound: It is not in the cache.
        StorageError: Something could not be deleted.
    """
    before = cached_size(reference)
    root = cache.cache_folder()
    repositories = cached_repositories(reference)
    if reference.revision is not None:
        for folder in cached_snapshots(reference):
            _delete_revision(root, folder.name)
            if folder.exists():
                raise not_deleted(folder, None)
        return before - sum(map(_size_of, repositories))
    for folder in repositories:
        try:
            # Whatever is in there: half of a download is no repository that a library could list.
            shutil.rmtree(folder)
            shutil.rmtree(root / ".locks" / folder.name, ignore_errors=True)
        except OSError as error:
            raise not_deleted(folder, error) from error
    return before


def _size_of(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_symlink())


def _delete_revision(root: Path, commit: str) -> None:
    """Delete a commit and the blobs that no other commit shows."""
    from huggingface_hub import scan_cache_dir

    scan_cache_dir(root).delete_revisions(commit).execute()


def not_deleted(path: Path, error: OSError | None) -> StorageError:
    """The error for a file or folder that stays."""
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
    stats = [path.stat() for path in model_files(folder)]
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


def model_files(folder: Path) -> Iterator[Path]:
    """The files of a model's folder, by name."""
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

"""Files behind URIs (``s3://bucket/key``, ``gs://``, ``hdfs://``, ``file:///path``), by pyarrow.

A credential is what pyarrow finds where the program runs: the environment, the cloud's own
configuration files, the machine's role.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO

from llmcli.errors import InvalidInput, StorageError
from llmcli.extras import missing_package

_URI = re.compile(r"[a-z][a-z0-9+.-]+://", re.ASCII)


def is_remote(name: str | Path) -> bool:
    """Whether a name is a URI."""
    return isinstance(name, str) and _URI.match(name) is not None


def open_remote(uri: str) -> BinaryIO:
    """Open a file for reading, anywhere in it.

    Raises:
        InvalidInput: there is none, or it may not be read.
    """
    with _named(uri, InvalidInput, "Check the URI and its credentials."):
        system, path = _of(uri)
        opened: BinaryIO = system.open_input_file(path)
        return opened


def matching(pattern: str) -> list[str]:
    """URIs that a pattern matches, in their order; ``*`` stays within a folder, ``**`` does not.

    Raises:
        InvalidInput: the folder cannot be listed.
    """
    folder = re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0]
    deep = "/" in pattern[len(folder) + 1 :]
    parts = pattern.split("/")
    found = []
    for uri in _listed(folder, deep=deep):
        if _matches(uri.split("/"), parts):
            found.append(uri)
    return sorted(found)


def _matches(names: list[str], patterns: list[str]) -> bool:
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_matches(names[skip:], patterns[1:]) for skip in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], patterns[0]) and _matches(names[1:], patterns[1:])


def _listed(folder: str, *, deep: bool) -> Iterator[str]:
    from pyarrow import fs

    with _named(folder, InvalidInput, "Check the URI and its credentials."):
        system, path = _of(folder)
        selector = fs.FileSelector(path, recursive=deep, allow_not_found=True)
        for info in system.get_file_info(selector):
            if info.type == fs.FileType.File:
                yield folder + info.path[len(path) :]


def list_remote(folder: str) -> set[str]:
    """The names of the files in a folder; none where there is no folder.

    Raises:
        InvalidInput: it cannot be listed.
    """
    return {uri.rpartition("/")[2] for uri in _listed(folder.rstrip("/"), deep=False)}


def put_remote(source: Path, uri: str) -> None:
    """Write a file whole or not at all, over what stands there.

    Raises:
        StorageError: it is not taken.
    """
    import shutil
    import uuid

    with _named(uri, StorageError, "Check the URI, its credentials and the space."):
        system, path = _of(uri)
        folder = path.rpartition("/")[0]
        # An object appears when it is whole; a file does under another name, which is changed.
        rename = system.type_name in ("local", "hdfs")
        target = f"{folder}/.{uuid.uuid4().hex}.tmp" if rename else path
        if rename:
            system.create_dir(folder, recursive=True)
        with open(source, "rb") as file, system.open_output_stream(target) as out:
            shutil.copyfileobj(file, out, 1 << 20)
        if rename:
            system.move(target, path)


def remove_remote(uri: str) -> None:
    """Remove a file.

    Raises:
        StorageError: it cannot be.
    """
    with _named(uri, StorageError, "Check the URI and its credentials."):
        system, path = _of(uri)
        system.delete_file(path)


def _of(uri: str) -> tuple[Any, str]:
    try:
        from pyarrow import fs
    except ImportError as exc:
        raise missing_package("Reading and writing URIs", "parquet") from exc
    system, path = fs.FileSystem.from_uri(uri)
    return system, path


@contextmanager
def _named(uri: str, error: type[InvalidInput | StorageError], cure: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as exc:  # pyarrow's own errors are among these
        reason = str(exc).splitlines()[0].rstrip(".")
        verb = "read" if error is InvalidInput else "write"
        raise error(f"Cannot {verb} {uri}: {reason}.", cure) from exc

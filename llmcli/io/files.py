"""Files written whole or not at all."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from llmcli.errors import InvalidInput, StorageError
from llmcli.io.sources import STDIN


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Write a file that appears under its name only when it is complete and on the disk.

    A new file gets the mode that the umask gives; an existing one keeps its own. What stood
    under the name before stays until the very end, whatever fails. A path that is no regular
    file (a pipe, ``/dev/stdout``) is written as it is.

    Raises:
        StorageError: the folder or the disk does not take it.
    """
    try:
        if path.exists() and not path.is_file():
            with open(path, "wb") as file:
                yield file
            return
        # Through a symbolic link: its file is replaced, not the link.
        target = Path(os.path.realpath(path))
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:50]}.", dir=target.parent)
        temporary = Path(name)
        try:
            with open(descriptor, "wb") as file:
                temporary.chmod(_mode(target))
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise StorageError(
            f"Cannot write {path}: {exc.strerror}.", "Free some space or choose another place."
        ) from exc


def _mode(target: Path) -> int:
    try:
        return target.stat().st_mode & 0o7777
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask


def sync_folder(folder: Path) -> None:
    """Make a rename last; a file system that cannot sync a folder has nothing to offer."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def is_file(path: str) -> bool:
    """Whether a path is that of a file that is there; a text that is no path is none."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # longer than a name may be, or with NUL in it
        return False


def existing_parent(path: str, *, inputs: Iterable[str] = ()) -> Path:
    """Return ``path``, checked to be a file that can be written and none of the inputs.

    Raises:
        InvalidInput: nothing could be written there, or an input would be lost.
    """
    if not path:
        raise InvalidInput("The output file has no name.", "Name a file.")
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise InvalidInput(f"{path} is a directory.", "Name a file.")
    if any(source != STDIN and Path(os.path.realpath(source)) == target for source in inputs):
        raise InvalidInput(f"{path} is an input file, too.", "Write to another file.")
    special = target.exists() and not target.is_file()  # a pipe or a device: written as it is
    if not os.access(target if special else target.parent, os.W_OK):
        raise InvalidInput(
            f"Cannot write {path}: its folder is missing or not writable.",
            "Name a file in a folder that exists and that you may write to.",
        )
    return target


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys of a file, one a line; empty lines and those that begin with # do not count.

    Raises:
        InvalidInput: it cannot be read, or has none.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise InvalidInput(f"Cannot read {path}: {reason}.", "Name another file.") from exc
    keys = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not keys:
        raise InvalidInput(f"{path} has no key.", "Write one, on a line of its own.")
    return keys

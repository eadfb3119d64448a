"""Files written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from llmcli.errors import StorageError


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
                os.fchmod(file.fileno(), _mode(target))
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
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)

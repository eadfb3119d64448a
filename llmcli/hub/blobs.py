"""Writing into the Hub cache: blobs that are verified, links to them, references last.

Whatever stops us between two steps, what the cache says is true: a blob gets its name when its
content is proven, a link when the blob is there, and a branch's commit when all links are.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.errors import CorruptModel, OutOfMemory, StorageError
from llmcli.hub.cache import repository_folder
from llmcli.hub.listing import RemoteFile
from llmcli.hub.reference import is_commit, quoted

if TYPE_CHECKING:
    from llmcli.hub.deadline import Reporter

_BLOCK = 2**20
_BINARY: int = getattr(os, "O_BINARY", 0)  # Windows would translate ends of lines
_CLOSED = -1
_LOCK_POLL_SECONDS = 0.1
_TOLD_AFTER_POLLS = 5


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an operating system's error into one that names the cache and its variable."""
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory("There is no memory left to receive a file.") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise StorageError(
            f"Cannot write to the model cache {quoted(str(path))}: {reason}.",
            "Free space or correct its permissions, or set HF_HOME to another folder.",
        ) from error


class Store:
    """A repository's part of the cache.

    Args:
        cache: As `llmcli.hub.cache.cache_folder` gives it.
        name: A Hub id.
    """

    def __init__(self, cache: Path, name: str) -> None:
        self.cache = cache
        self.folder = repository_folder(cache, name)
        self._locks = cache / ".locks" / self.folder.name

    def blob(self, file: RemoteFile) -> Path:
        """Where a file's content belongs."""
        return self.folder / "blobs" / _name(file)

    def partial(self, file: RemoteFile) -> Path:
        """Where it is gathered, by us and after us by others, until it is proven."""
        return self.folder / "blobs" / f"{_name(file)}.incomplete"

    def prepare(self) -> None:
        """Make the folders."""
        for folder in (self.folder / "blobs", self.folder / "snapshots", self._locks):
            folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def lock(self, file: RemoteFile, reporter: Reporter) -> Iterator[None]:
        """Be the only process that fetches a file; huggingface_hub takes the same locks.

        Ends with the process, however that ends.
        """
        import filelock

        lock = filelock.FileLock(self._locks / f"{_name(file)}.lock", mode=0o664)
        reporter.pause()
        polls = 0
        while not lock.is_locked:
            reporter.check()
            try:
                lock.acquire(timeout=_LOCK_POLL_SECONDS)
            except filelock.Timeout:
                polls += 1
                if polls == _TOLD_AFTER_POLLS:
                    reporter.tell(f"Another process fetches {file.name}: waiting for it.")
            except NotImplementedError:
                # A file system without locks: two that write at once spoil the hash, no more.
                break
        reporter.resume()
        try:
            yield
        finally:
            lock.release()

    def require_space(self, file: RemoteFile, there: int) -> None:
        """Refuse to begin what the disk cannot hold.

        Raises:
            StorageError: Fewer bytes are free than are to come.
        """
        free = shutil.disk_usage(self.folder).free
        if file.size is not None and file.size - there > free:
            raise StorageError(
                f"No space left on device: {file.name} needs {file.size - there:,} bytes, and "
                f"{quoted(str(self.cache))} has {free:,} left.",
                "Free some (llmcli models remove), or set HF_HOME to another disk.",
            )

    def link(self, commit: str, file: RemoteFile) -> None:
        """Make ``snapshots/COMMIT/FILE`` show the blob."""
        snapshot = self.folder / "snapshots" / commit
        snapshot.mkdir(parents=True, exist_ok=True)
        pointer = snapshot / file.name
        blob = self.blob(file)
        if pointer.exists() and pointer.samefile(blob):
            return
        temporary = self.folder / f".{file.name}.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        try:
            # From the snapshot's folder, so that the cache can be moved as a whole.
            os.symlink(os.path.join("..", "..", "blobs", blob.name), temporary)
        except (NotImplementedError, PermissionError):  # no links on this system
            shutil.copyfile(blob, temporary)
        os.replace(temporary, pointer)

    def write_reference(self, revision: str, commit: str) -> None:
        """Make ``refs/REVISION`` say which commit it is."""
        if is_commit(revision):
            return
        reference = self.folder / "refs" / revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".ref.{os.getpid()}"
        temporary.write_text(commit, encoding="ascii")
        os.replace(temporary, reference)


class PartialFile:
    """The bytes of a file that have come so far, and their hash; a context manager.

    Args:
        path: As `Store.partial` gives it; what is there already is kept.
        file: What is expected.
    """

    def __init__(self, path: Path, file: RemoteFile) -> None:
        self.path = path
        self.file = file
        self.size = 0

    def __enter__(self) -> PartialFile:
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | _BINARY, 0o666)
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor != _CLOSED:
            os.close(self._descriptor)

    def take_stock(self, reporter: Reporter) -> None:
        """Hash what an earlier run left; too much of it is worth nothing."""
        length = os.fstat(self._descriptor).st_size
        if self.file.size is not None and length > self.file.size:
            length = 0
        os.ftruncate(self._descriptor, length)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._digest = _new_digest(self.file)
        self.size = 0
        while self.size < length:
            reporter.check()
            block = os.read(self._descriptor, _BLOCK)
            if not block:
                break
            self._digest.update(block)
            self.size += len(block)

    def restart(self) -> None:
        """Forget everything."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._digest = _new_digest(self.file)
        self.size = 0

    def append(self, data: bytes) -> None:
        """Write more bytes.

        Raises:
            CorruptModel: More came than the Hub says the file has.
        """
        if self.file.size is not None and self.size + len(data) > self.file.size:
            raise CorruptModel(
                f"{self.file.name} is longer than the {self.file.size:,} bytes that the Hub says "
                "it has: it was deleted.",
                "Run the command again.",
            )
        view = memoryview(data)
        while view:
            written = os.write(self._descriptor, view)
            self._digest.update(view[:written])
            self.size += written
            view = view[written:]

    def is_complete(self) -> bool:
        """Whether as many bytes are there as the Hub says the file has."""
        return self.file.size is not None and self.size == self.file.size

    def is_intact(self) -> bool:
        """Whether size and hash are what the Hub says, as far as it says anything."""
        if self.file.size is not None and self.size != self.file.size:
            return False
        expected = self.file.sha256 or self.file.git_sha1
        return expected is None or self._digest.hexdigest() == expected

    def commit(self, blob: Path) -> None:
        """Give the content its name."""
        os.fsync(self._descriptor)
        os.close(self._descriptor)  # Windows renames nothing that is open
        self._descriptor = _CLOSED
        os.replace(self.path, blob)


def blob_is_intact(blob: Path, file: RemoteFile, *, thorough: bool, reporter: Reporter) -> bool:
    """Whether a blob that is in the cache may be used.

    Args:
        blob: Its path.
        file: What the Hub says about it.
        thorough: Hash it, and not only compare its size.
        reporter: Asked whether anybody still waits.
    """
    if not blob.is_file() or (file.size is not None and blob.stat().st_size != file.size):
        return False
    if not thorough:
        return True
    with open(blob, "rb") as stream:
        digest = _new_digest(file)
        while block := stream.read(_BLOCK):
            reporter.check()
            digest.update(block)
    expected = file.sha256 or file.git_sha1
    return expected is None or digest.hexdigest() == expected


def _name(file: RemoteFile) -> str:
    if file.blob is None:
        raise ValueError(f"{file.name} has not been described")
    return file.blob


def _new_digest(file: RemoteFile) -> hashlib._Hash:
    if file.git_sha1 is not None:
        # git hashes a header with the length before the content.
        header = b"blob %d\0" % (file.size or 0)
        return hashlib.sha1(header, usedforsecurity=False)
    return hashlib.sha256()

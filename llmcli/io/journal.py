"""The output of a batch that may be killed at any moment and goes on where it was.

Beside the output ``OUT`` stands a manifest, ``OUT.llmcli.json``: what made it. JSON lines are
appended as records are finished, in the order of the input, and each says which record of the
input it is of (``record``, counted from 0). So the last whole line tells where to go on, and a
line that a crash cut short is cut off and made again.

Other formats than JSON lines cannot be appended to: until the batch is done, its lines are in
``OUT.partial.jsonl``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from llmcli.errors import InvalidInput, StorageError
from llmcli.io.batch import ERROR_KEY, is_error_row
from llmcli.io.files import atomic_write, sync_folder

Mode = Literal["new", "resume", "overwrite", "retry"]

_SYNC_SECONDS = 1.0
_BLOCK = 1 << 16
_LOST = object()


@dataclass(frozen=True, slots=True)
class Journal:
    """Where a batch's lines go, and what makes them.

    Attributes:
        path: The output.
        manifest: What makes the lines: JSON values by name. ``--resume`` wants the same.
        lines: How many lines a record has, error records aside, which have one.
        plain: Whether the output is JSON lines; otherwise something converts them at the end.
    """

    path: Path
    manifest: Mapping[str, Any]
    lines: int = 1
    plain: bool = True

    @property
    def manifest_path(self) -> Path:
        """The manifest's file."""
        return self.path.with_name(f"{self.path.name}.llmcli.json")

    @property
    def lines_path(self) -> Path:
        """The file that lines are appended to."""
        return self.path if self.plain else self.path.with_name(f"{self.path.name}.partial.jsonl")

    def open(self, mode: Mode) -> Appender:
        """Make ready to append.

        Args:
            mode: "new" wants no output to be there, "resume" goes on with one (or begins),
                "overwrite" begins anew whatever is there.

        Raises:
            InvalidInput: an output is there, or is of another model, setting or input.
            StorageError: another run writes to it, or the disk does not take it.
        """
        if mode == "new":
            self.check_absent()
        with _storage(self.lines_path):
            descriptor = os.open(self.lines_path, os.O_RDWR | os.O_CREAT, 0o666)
        file = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            self._lock(file)
            with _storage(self.lines_path):
                if mode == "overwrite":
                    file.truncate(0)
                elif mode == "resume":
                    self._check_manifest(empty=not file.seek(0, os.SEEK_END))
                done = self._whole_records(file) if mode == "resume" else 0
                # The manifest comes first: an output without one could not be gone on with.
                if mode != "resume" or not self.manifest_path.exists():
                    self._write_manifest()
                sync_folder(self.path.parent)
        except BaseException:
            file.close()
            raise
        return Appender(file=file, path=self.lines_path, done=done)

    def check_absent(self) -> None:
        """Look whether there is an output already.

        Raises:
            InvalidInput: there is.
        """
        if self.path.exists() or self.lines_path.exists():
            raise InvalidInput(
                f"{self.path} is there already.", "Pass --resume to go on with it, or --overwrite."
            )

    @property
    def complete(self) -> bool:
        """Whether the lines have become an output of another format."""
        return not self.plain and self.path.exists() and not self.lines_path.exists()

    def stored(self) -> dict[str, Any]:
        """The manifest that is there; empty where there is none that can be read."""
        try:
            found = json.loads(self.manifest_path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def convert(
        self, write: Callable[[Iterator[bytes], BinaryIO], None], *, keep: bool = False
    ) -> None:
        """Turn the lines into the output's own format.

        Args:
            write: Does so.
            keep: Leave the lines: some are error records, which may be made again.

        Raises:
            StorageError: the disk does not take it.
        """
        with open(self.lines_path, "rb") as lines, atomic_write(self.path) as out:
            write(iter(lines), out)
        if not keep:
            self.lines_path.unlink()

    def check_same(self) -> None:
        """Look whether an output is there, made as this one would be.

        Raises:
            InvalidInput: there is none, or another model, setting or input made it.
        """
        if not self.path.exists() and not self.lines_path.exists():
            raise InvalidInput(
                f"{self.path} is not there.", "Run the batch without --retry-errors."
            )
        self._check_manifest(empty=False)

    def errors(self) -> set[int]:
        """The numbers of the error records among the lines that are there."""
        if not self.lines_path.exists():
            return set()
        with open(self.lines_path, "rb") as file:
            rows = (json.loads(line) for line in file if ERROR_KEY in line)
            return {row["record"] for row in rows if is_error_row(row)}

    @contextmanager
    def replacing(self) -> Iterator[Replacer]:
        """Put new lines in the places of error records; the file changes whole or not at all.

        Raises:
            StorageError: another run writes to it, or the disk does not take it.
        """
        with open(self.lines_path, "rb") as old:
            self._lock(old)
            with atomic_write(self.lines_path) as out:
                replacer = Replacer(old, out)
                yield replacer
                out.writelines(old)

    def _lock(self, file: BinaryIO) -> None:
        if sys.platform == "win32":  # its locks keep others from reading, too
            return
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StorageError(
                f"Another run is writing to {self.path}.", "Wait for its end, or write elsewhere."
            ) from exc
        except OSError:
            return  # a file system without locks

    def _check_manifest(self, *, empty: bool) -> None:
        try:
            found = json.loads(self.manifest_path.read_text("utf-8"))
        except FileNotFoundError:
            if empty:
                return
            raise InvalidInput(
                f"{self.path} has no {self.manifest_path.name} beside it, so what made it is "
                "not known.",
                "Write to another file, or pass --overwrite.",
            ) from None
        except (ValueError, OSError) as exc:
            raise InvalidInput(
                f"{self.manifest_path} cannot be read: {exc}.", "Pass --overwrite to begin anew."
            ) from exc
        check_same_manifest(str(self.path), found, self.manifest)

    def _write_manifest(self) -> None:
        with atomic_write(self.manifest_path) as file:
            file.write((json.dumps(self.manifest, ensure_ascii=False, indent=2) + "\n").encode())

    def _whole_records(self, file: BinaryIO) -> int:
        """How many records are whole; what follows them is cut off."""
        end = _last_line_end(file)
        done = 0
        while end:
            start, row = _line_before(file, end)
            if row is None or not isinstance(row.get("record"), int):
                raise InvalidInput(
                    f"{self.path} holds a line that this program did not write.",
                    "Write to another file, or pass --overwrite.",
                )
            if is_error_row(row) or self.lines == 1 or row.get("index") == self.lines - 1:
                done = row["record"] + 1
                break
            end = start  # the record was under way
        file.truncate(end)
        file.seek(end)
        return done


@dataclass(slots=True, kw_only=True)
class Appender:
    """Appends whole records. What was written is on the disk within a second, or at the end.

    Attributes:
        file: Open at its end, without a buffer.
        path: Its name, for messages.
        done: How many records of the input the file holds already.
    """

    file: BinaryIO
    path: Path
    done: int
    _synced: float = field(default_factory=time.monotonic)

    def write(self, number: int, lines: bytes) -> None:
        """Append all lines of the next record, in one call of the system where it takes them.

        Raises:
            StorageError: the disk does not take them; what was complete stays.
        """
        with _storage(self.path):
            rest = memoryview(lines)
            while rest:
                rest = rest[self.file.write(rest) :]
            if (now := time.monotonic()) - self._synced >= _SYNC_SECONDS:
                os.fsync(self.file.fileno())
                self._synced = now

    def close(self) -> None:
        """Put everything on the disk.

        Raises:
            StorageError: the disk does not take it.
        """
        with _storage(self.path), self.file:
            os.fsync(self.file.fileno())

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Replacer:
    """Copies lines, and puts others in the places of error records."""

    def __init__(self, old: BinaryIO, out: BinaryIO) -> None:
        self._old = old
        self._out = out

    def write(self, number: int, lines: bytes) -> None:
        """Put all lines of a record, the next of those that have an error, in its place."""
        for line in self._old:
            if ERROR_KEY in line:
                row = json.loads(line)
                if row["record"] == number and is_error_row(row):
                    self._out.write(lines)
                    return
            self._out.write(line)


class _storage:
    """Turns what the system says of a file into a StorageError that names it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise StorageError(
                f"Cannot write {self._path}: {error.strerror}.",
                "Free some space or choose another place.",
            ) from error


def check_same_manifest(
    output: str, found: Mapping[str, Any] | None, manifest: Mapping[str, Any]
) -> None:
    """Look whether an output was made with the same model, settings and input.

    Args:
        output: How the message calls it.
        found: The manifest that is there; None where there is none.
        manifest: What this call has.

    Raises:
        InvalidInput: it was not, or that cannot be told.
    """
    if found is None:
        raise InvalidInput(
            f"{output} has no manifest, so what made it is not known.",
            "Write somewhere else, or pass --overwrite.",
        )
    difference = _difference(*(json.loads(json.dumps(each)) for each in (dict(found), manifest)))
    if difference is not None:
        name, before, now = difference
        raise InvalidInput(
            f"{output} was made with {name} {_shown(before)}; this call has {_shown(now)}.",
            "Give the same model, settings and input, or write to another file.",
        )


def _last_line_end(file: BinaryIO) -> int:
    """Where the last whole line ends; 0 where there is none."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(end - _BLOCK, 0)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _line_before(file: BinaryIO, end: int) -> tuple[int, dict[str, Any] | None]:
    """Where the line that ends at ``end`` begins, and the JSON object in it."""
    start, data = end, b""
    while start and b"\n" not in data[:-1]:
        size = min(start, _BLOCK)
        start -= size
        file.seek(start)
        data = file.read(size) + data
    line = data[data.rfind(b"\n", 0, -1) + 1 :]
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    return end - len(line), row if isinstance(row, dict) else None


def _difference(before: Any, now: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """The first field that differs between two JSON values: its dotted name and both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(key for key in now if key not in before)]:
            inner = f"{name}.{key}" if name else str(key)
            found = _difference(before.get(key, _LOST), now.get(key, _LOST), inner)
            if found is not None:
                return found
        return None
    return None if before == now and type(before) is type(now) else (name, before, now)


def _shown(value: Any) -> str:
    return "none" if value is _LOST or value is None else json.dumps(value, ensure_ascii=False)

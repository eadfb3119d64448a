"""Where text comes from: an argument, files, stdin. Bytes until they are decoded, once."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from glob import glob, has_magic
from pathlib import Path
from typing import BinaryIO, Literal

from llmcli.errors import InvalidInput, InvalidText, StorageError
from llmcli.io.remote import is_remote, matching, open_remote

DecodeErrors = Literal["strict", "replace"]

STDIN = "-"
CHUNK_BYTES = 1 << 20
MAX_PROMPT = 16 << 20  # bytes: beyond the largest contexts there are, and little memory yet


def decode_utf8(data: bytes, *, source: str, errors: DecodeErrors = "strict") -> str:
    """Decode bytes as UTF-8.

    A byte-order mark is text like any other (U+FEFF), and line ends stay as they are.

    Args:
        data: The bytes.
        source: How an error calls them ("stdin", a file's name).
        errors: ``replace`` puts U+FFFD where bytes are invalid.

    Raises:
        InvalidText: the bytes are not valid UTF-8; the message names the first bad offset.
    """
    try:
        return data.decode("utf-8", errors)
    except UnicodeDecodeError as exc:
        raise InvalidText(
            f"{source} is not valid UTF-8: byte 0x{data[exc.start]:02x} at offset {exc.start}.",
            "Convert it to UTF-8, or pass --errors replace.",
        ) from exc


def check_argument(text: str, *, source: str, errors: DecodeErrors = "strict") -> str:
    """Return a command-line argument as text, its undecodable bytes treated as input's are.

    Raises:
        InvalidText: the argument holds bytes that are not UTF-8 (lone surrogates).
    """
    if not _bad(text):
        return text
    try:
        data = os.fsencode(text)  # the bytes that were typed
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        data = text.encode("utf-8", "surrogatepass")
    return decode_utf8(data, source=source, errors=errors)


def _bad(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def stdin_is_terminal() -> bool:
    """Whether stdin is a person at a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()


def open_source(source: str | Path) -> BinaryIO:
    """Open a file, one behind a URI, or stdin for ``-``, for reading bytes.

    Raises:
        InvalidInput: stdin is closed; the file is missing, a directory, or unreadable.
    """
    if source == STDIN:
        if sys.stdin is None:
            raise InvalidInput("stdin is closed.", "Pipe text in, or pass it as an argument.")
        return sys.stdin.buffer
    if is_remote(source):
        return open_remote(str(source))
    check_file(source)
    try:
        return open(source, "rb")
    except OSError as exc:
        raise _unreadable(source, exc) from exc


def expanded(names: Iterable[str]) -> tuple[str, ...]:
    """Put the files that a pattern matches in its place, in the order of their names.

    ``*``, ``?`` and ``[...]`` are a shell's, and ``**`` any folders. A file of just that name is
    no pattern.

    Raises:
        InvalidInput: nothing matches.
    """
    found: list[str] = []
    for name in names:
        if name == STDIN or not has_magic(name) or os.path.lexists(name):
            found.append(name)
            continue
        matches = (
            matching(name)
            if is_remote(name)
            else sorted(each for each in glob(name, recursive=True) if not os.path.isdir(each))
        )
        if not matches:
            raise InvalidInput(f"No file matches {name}.", "Check the pattern.")
        found += matches
    return tuple(found)


def check_file(source: str | Path) -> None:
    """Look at a file without opening it (which would wait for a pipe's other end).

    Raises:
        InvalidInput: the file is missing or a directory.
    """
    if is_remote(source):
        return
    try:
        if stat.S_ISDIR(os.stat(source).st_mode):
            raise InvalidInput(f"{source} is a directory.", "Name a file.")
    except OSError as exc:
        raise _unreadable(source, exc) from exc


def _unreadable(source: str | Path, exc: OSError) -> InvalidInput:
    return InvalidInput(
        f"Cannot read {source}: {exc.strerror}.", "Check the name and its permissions."
    )


def read_chunks(
    source: str | Path, *, size: int = CHUNK_BYTES, as_it_comes: bool = False, start: int = 0
) -> Iterator[bytes]:
    """Yield a file's (or for ``-`` stdin's) bytes in pieces of at most ``size``.

    ``as_it_comes``: do not wait until a pipe has given so many. ``start``: begin after so many
    bytes of a file.

    Raises:
        InvalidInput: as :func:`open_source`.
        StorageError: reading fails half-way.
    """
    stream = open_source(source)
    try:
        if start:
            stream.seek(start)
        while data := _read(stream, size, source, as_it_comes):
            yield data
    finally:
        if source != STDIN:
            stream.close()


def read_text(
    source: str | Path, *, errors: DecodeErrors = "strict", limit: int = MAX_PROMPT
) -> str:
    """Return a file's or stdin's text, for what must have it whole.

    Raises:
        InvalidInput: it has more bytes than ``limit``; or as :func:`read_chunks`.
        InvalidText: as :func:`decode_utf8`.
    """
    name, parts, size = source_name(source), list[bytes](), 0
    for part in read_chunks(source):
        parts.append(part)
        size += len(part)
        if size > limit:
            raise InvalidInput(
                f"{name} is longer than {limit >> 20} MiB, more than any prompt.",
                "Shorten it: 'head -c 100000', say.",
            )
    return decode_utf8(b"".join(parts), source=name, errors=errors)


def _read(stream: BinaryIO, size: int, source: str | Path, as_it_comes: bool = False) -> bytes:
    try:
        if as_it_comes and isinstance(stream, io.BufferedReader):
            return stream.read1(size)
        return stream.read(size)
    except OSError as exc:
        name = source_name(source)
        raise StorageError(f"Cannot read {name}: {exc.strerror}.", "Check the device.") from exc


def source_name(source: str | Path) -> str:
    """How messages call a source: a file's name, or ``stdin``."""
    return "stdin" if source == STDIN else str(source)


def unread_stdin() -> bool:
    """Whether stdin is a pipe that holds bytes, found out without reading any of them."""
    if sys.platform == "win32" or sys.stdin is None:
        return False
    import fcntl
    import struct
    import termios

    try:
        fd = sys.stdin.fileno()
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            return False
        waiting = fcntl.ioctl(fd, termios.FIONREAD, struct.pack("i", 0))
        return bool(struct.unpack("i", waiting)[0])
    except (OSError, ValueError):  # no descriptor (a test's runner), no ioctl
        return False

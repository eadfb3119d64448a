"""Keeping off stderr what the native library prints there by itself, above all in a panic.

Its hook writes to the file descriptor before Python learns of the panic, from whatever thread.
So the descriptor points to memory meanwhile; what others wrote there is passed on afterwards.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

__all__ = ["STDERR", "STDOUT", "quiet_panics", "silent"]

STDOUT, STDERR = 1, 2
_OWN_WORDS = re.compile(
    rb"\n?thread '[^\n]*panicked at .*?(?:note: run with `RUST_BACKTRACE[^\n]*\n|\Z)", re.DOTALL
)


@dataclass(slots=True)
class _Held:
    """Who holds the descriptor back, and where it pointed."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    depth: int = 0
    saved: int = -1
    memory: int = -1


_held = _Held()


@contextmanager
def quiet_panics() -> Iterator[None]:
    """Inside, a panic prints nothing; from several threads, until the last of them is out."""
    with _held.lock:
        if _held.depth == 0:
            _hold()
        _held.depth += 1
    try:
        yield
    finally:
        with _held.lock:
            _held.depth -= 1
            if _held.depth == 0 and _held.saved >= 0:
                _release()


@contextmanager
def silent(descriptor: int) -> Iterator[None]:
    """Inside, nothing reaches stdout or stderr; native libraries print remarks there."""
    try:
        saved = os.dup(descriptor)
    except OSError:  # closed: nothing to keep clean
        yield
        return
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), descriptor)
    try:
        yield
    finally:
        os.dup2(saved, descriptor)
        os.close(saved)


def _hold() -> None:
    try:
        _held.saved = os.dup(STDERR)
    except OSError:  # closed: nothing to keep clean
        _held.saved = -1
        return
    _held.memory = _scratch()
    os.dup2(_held.memory, STDERR)


def _release() -> None:
    os.dup2(_held.saved, STDERR)
    os.close(_held.saved)
    size = os.lseek(_held.memory, 0, os.SEEK_END)
    if size:
        os.lseek(_held.memory, 0, os.SEEK_SET)
        others = _OWN_WORDS.sub(b"", os.read(_held.memory, size))
        with suppress(OSError):  # as if it had been written there at once
            os.write(STDERR, others)
    os.close(_held.memory)
    _held.saved = _held.memory = -1


def _scratch() -> int:
    if sys.platform != "win32" and hasattr(os, "memfd_create"):
        return os.memfd_create("stderr")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())

"""Reading the small files of a model's folder: regular files of a bounded size, or an error.

A folder may hold a pipe where a file belongs, or a link to an endless device. Both are refused
before a byte is read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from llmcli.errors import CorruptModel

__all__ = ["LARGEST_TOKENIZER", "has_tokenizer", "read_regular", "regular_files", "tokenizer_files"]

LARGEST_TOKENIZER = 256 << 20  # bytes; the largest published tokenizer.json files are below 40 MB

# Each set of files is enough for transformers to build a tokenizer.
_TOKENIZER_SOURCES = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("tokenizer.model",),
    ("tiktoken.model",),
    ("tekken.json",),
    ("spiece.model",),
    ("sentencepiece.bpe.model",),
    ("sentencepiece.model",),
    ("spm.model",),
    ("spm_char.model",),
    ("source.spm", "target.spm", "vocab.json"),
    ("vocab.json", "bpe.codes"),
    ("vocab.txt",),
)
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def has_tokenizer(names: frozenset[str]) -> bool:
    """Whether files of these names are enough to build a tokenizer from."""
    return any(names.issuperset(source) for source in _TOKENIZER_SOURCES)


def tokenizer_files(names: frozenset[str]) -> list[str]:
    """Of the names of a folder's files, those that its tokenizer is built from; sorted.

    Where tokenizer.json is among them, the older forms beside it are not: nothing reads them.
    """
    if "tokenizer.json" in names:
        sources = {"tokenizer.json"}
    else:
        sources = {name for source in _TOKENIZER_SOURCES for name in source}
    return sorted(names & (sources | set(_BESIDE)))


def regular_files(folder: Path) -> frozenset[str]:
    """The names of a folder's regular files (or links to such)."""
    try:
        return frozenset(path.name for path in folder.iterdir() if path.is_file())
    except OSError:
        return frozenset()


def read_regular(path: Path, most: int, *, cure: str = "") -> bytes:
    """Read a whole file.

    Args:
        path: The file, or a link to it.
        most: The most bytes that it may have.
        cure: What the error advises.

    Raises:
        CorruptModel: It is a pipe, a device or a folder, or has more bytes.
        OSError: It cannot be opened or read.
    """
    # Without O_NONBLOCK opening a pipe waits until somebody writes to it.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise CorruptModel(f"{path} is {_kind(state.st_mode)}, not a file.", cure)
        if state.st_size > most:
            raise CorruptModel(
                f"{path} is {state.st_size:,} bytes long, more than such a file can have.", cure
            )
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(descriptor)


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a folder" if stat.S_ISDIR(mode) else "a device"

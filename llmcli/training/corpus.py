"""Text files, folders, JSON Lines and stdin -> documents, one at a time."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from llmcli.errors import InvalidInput, InvalidText, StorageError

STDIN = "-"
TEXT_SUFFIXES = (".txt", ".text", ".jsonl")
"""What is read from a folder; a file that is named itself may be called anything."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text, separated from the next by the end-of-text token.

    Attributes:
        name: The file's name, with ``:n`` after it where a file holds several documents.
        text: The text.
    """

    name: str
    text: str


def expand(sources: Sequence[str]) -> list[str]:
    """Return the files that the sources stand for: folders are searched, in sorted order.

    Raises:
        InvalidInput: a source does not exist, or a folder holds no text file.
    """
    files: list[str] = []
    for source in sources:
        path = Path(source)
        if source != STDIN and path.is_dir():
            found = sorted(str(p) for p in path.rglob("*") if p.suffix in TEXT_SUFFIXES)
            if not found:
                raise InvalidInput(
                    f"{source} holds no {', '.join(TEXT_SUFFIXES)} file.",
                    "Name the files themselves, or another folder.",
                )
            files += found
        elif source == STDIN or path.exists():
            files.append(source)
        else:
            raise InvalidInput(f"{source} does not exist.", "Check the name.")
    return files


def read_documents(files: Sequence[str], *, split_on: str | None = None) -> Iterator[Document]:
    """Yield every document that is not empty.

    A file is a document; a ``.jsonl`` file has one in the ``text`` field of each line; with
    ``split_on`` a text file is cut wherever that string stands (``"\\n\\n\\n"``: blank lines).

    Raises:
        InvalidText: a file is not UTF-8, or a line of a ``.jsonl`` file has no ``text``.
        StorageError: a file cannot be read.
    """
    for file in files:
        if file.endswith(".jsonl"):
            documents = _records(file)
        else:
            text = _decode(_read(file), file)
            parts = text.split(split_on) if split_on else [text]
            documents = _numbered(Path(file).name, parts)
        yield from (document for document in documents if document.text.strip())


def _numbered(name: str, parts: Sequence[str]) -> Iterator[Document]:
    for number, part in enumerate(parts, 1):
        yield Document(name if len(parts) == 1 else f"{name}:{number}", part)


def _records(file: str) -> Iterator[Document]:
    with _open(file) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            where = f"{Path(file).name}:{number}"
            try:
                text = json.loads(line)["text"]
            except (ValueError, KeyError, TypeError, RecursionError) as exc:
                raise InvalidText(
                    f"Line {number} of {file} is no JSON object with a text field.",
                    'Each line must look like {{"text": "..."}}.'.format(),
                ) from exc
            if not isinstance(text, str):
                raise InvalidText(
                    f"The text field in line {number} of {file} is no string.",
                    "Write the document as a JSON string.",
                )
            yield Document(where, _checked(text, where))


def _open(file: str) -> BinaryIO:
    try:
        return open(file, "rb")
    except OSError as exc:
        raise StorageError(
            f"Cannot read {file}: {exc.strerror}.", "Check the name and its permissions."
        ) from exc


def _read(file: str) -> bytes:
    if file == STDIN:
        if sys.stdin is None:
            raise InvalidInput("stdin is closed.", "Pipe text in, or name a file.")
        return sys.stdin.buffer.read()
    with _open(file) as stream:
        try:
            return stream.read()
        except OSError as exc:
            raise StorageError(f"Cannot read {file}: {exc.strerror}.", "Check the file.") from exc


def read_text_file(file: str) -> str:
    """Return the text of one file.

    Raises:
        InvalidText: it is not UTF-8.
        StorageError: it cannot be read.
    """
    return _decode(_read(file), file)


def _decode(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        name = "stdin" if source == STDIN else source
        raise InvalidText(
            f"{name} is not valid UTF-8: byte 0x{data[exc.start]:02x} at offset {exc.start}.",
            "Convert it to UTF-8.",
        ) from exc


def _checked(text: str, where: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise InvalidText(
            f"The text in {where} holds a lone surrogate.", "Write the character whole."
        ) from exc
    return text


def choose_held_out(sizes: Sequence[int], fraction: float, *, seed: int) -> frozenset[int]:
    """Return which documents to hold out: whole ones, drawn at random, near the fraction.

    Documents are drawn until both ``fraction`` of their number and of their bytes is reached
    (rounded up), and at least one stays for training.

    Args:
        sizes: Bytes of each document.
        fraction: Between 0 and 1; 0 holds nothing out.
        seed: Of the draw.
    """
    if fraction <= 0 or len(sizes) < 2:
        return frozenset()
    order = random.Random(seed).sample(range(len(sizes)), len(sizes))
    chosen: set[int] = set()
    held = 0
    for index in order[: len(sizes) - 1]:
        if len(chosen) >= fraction * len(sizes) and held >= fraction * sum(sizes):
            break
        chosen.add(index)
        held += sizes[index]
    return frozenset(chosen)

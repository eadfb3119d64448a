"""Text files, folders, JSON Lines and stdin -> documents, one at a time."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmcli.errors import InvalidInput, InvalidText
from llmcli.io.batch import placed
from llmcli.io.formats import is_table
from llmcli.io.records import Columns, Source, records
from llmcli.io.sources import STDIN
from llmcli.tokenization.stream import check_surrogates

TEXT_SUFFIXES = (".txt", ".text", ".jsonl")
"""What is read from a folder; a file that is named itself may be called anything."""

_LONGEST = 1 << 30  # characters of a document, which is held in memory


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

    A file is a document; a table (``.jsonl``, ``.csv``, ``.tsv``, ``.parquet``, also with
    ``.gz`` or ``.zst`` after it) has one in the ``text`` field of each row; with ``split_on`` a
    text file is cut wherever that string stands (``"\\n\\n\\n"``: blank lines).

    Raises:
        InvalidInput: a file cannot be read, or a row of a table has no ``text``.
        InvalidText: a text is not UTF-8.
        StorageError: reading fails half-way.
    """
    for file in files:
        documents = _rows(file) if is_table(file) else _parts(file, split_on)
        yield from (document for document in documents if document.text.strip())


def _parts(file: str, split_on: str | None) -> Iterator[Document]:
    for record in records([Source(file)], kind="whole", errors="strict"):
        text = record.held(
            "training", limit=_LONGEST, cure="Cut it into several files ('split -C 100M')."
        )
        parts = text.split(split_on) if split_on else [text]
        name = Path(file).name
        for number, part in enumerate(parts, 1):
            yield Document(name if len(parts) == 1 else f"{name}:{number}", part)


def _rows(file: str) -> Iterator[Document]:
    for record in records([Source(file)], kind="jsonl", columns=Columns(text="text")):
        if record.error is not None:
            raise placed(record, record.error)
        try:
            check_surrogates(record.text)
        except InvalidText as exc:
            raise placed(record, exc) from exc
        yield Document(f"{Path(file).name}:{record.number + 1}", record.text)


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

"""What a run trains on: tokenizer, token files, held-out part; made once, kept for --resume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer as Backend
from torch import Tensor

from llmcli.errors import InvalidInput
from llmcli.io.files import atomic_write
from llmcli.io.sources import STDIN
from llmcli.reporting import working
from llmcli.tokenization.tokenizer import Tokenizer
from llmcli.training.corpus import Document, choose_held_out, expand, read_documents
from llmcli.training.settings import END_OF_TEXT, TrainSettings
from llmcli.training.tokens import TokenFile, write_tokens
from llmcli.training.vocabulary import train_tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_DOCUMENTS = 20
"""With fewer, a whole document would be too much of the text: the end of each is held out."""

_INDEX = "data.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Tokenizer and tokens of a run, in a folder.

    Attributes:
        folder: Where ``tokenizer.json`` and the token files are.
        tokenizer: The tokenizer.
        end_of_text: The token that ends each document.
        train: What is trained on.
        validation: What is not.
        by_document: Whether whole documents were held out, or the end of each.
        sha256: Of the documents' UTF-8 bytes, one after the other.
    """

    folder: Path
    tokenizer: Tokenizer
    end_of_text: int
    train: TokenFile
    validation: TokenFile
    by_document: bool
    sha256: str

    @property
    def documents(self) -> int:
        """How many there are; where the end of each is held out, both files hold them all."""
        counts = len(self.train.names), len(self.validation.names)
        return sum(counts) if self.by_document else max(counts)

    @property
    def train_ids(self) -> NDArray[Any]:
        """What is trained on, shape [tokens]."""
        return self.train.open(self.folder)

    @property
    def validation_ids(self) -> NDArray[Any]:
        """What is held out, shape [tokens]."""
        return self.validation.open(self.folder)

    def validation_rows(self, context: int, limit: int) -> Tensor | None:
        """Return about ``limit`` held-out tokens, evenly spread, shape [rows, context + 1].

        Where less than one context is held out, it is one shorter row; None where nothing is.
        """
        ids = self.validation_ids
        context = min(context, len(ids) - 1)
        if context < 1:
            return None
        rows = (len(ids) - 1) // context
        take = max(1, min(rows, limit // context))
        starts = [rows * i // take * context for i in range(take)]
        return torch.stack(
            [torch.from_numpy(ids[at : at + context + 1].astype("int64")) for at in starts]
        )


def load_data(folder: Path) -> Data:
    """Return what :func:`prepare_data` left in the folder.

    Raises:
        InvalidInput: nothing was prepared there.
    """
    try:
        record = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise InvalidInput(
            f"There is no run to resume in {folder.parent}.", "Start it without --resume."
        ) from exc
    return Data(
        folder=folder,
        tokenizer=Tokenizer.from_folder(folder),
        train=TokenFile(**record.pop("train")),
        validation=TokenFile(**record.pop("validation")),
        **record,
    )


def prepare_data(
    sources: Sequence[str],
    folder: Path,
    *,
    settings: TrainSettings,
    vocab_size: int,
    base: tuple[Tokenizer, int] | None = None,
    split_on: str | None = None,
) -> Data:
    """Read the corpus, train a tokenizer unless one is given, and write the token files.

    Args:
        sources: Files, folders, ``-``.
        folder: Where everything is kept.
        settings: The held-out fraction and the seed.
        vocab_size: Of a new tokenizer, which is learned without the held-out part.
        base: Tokenizer and end-of-text token of a model that is fine-tuned.
        split_on: As in :func:`read_documents`.

    Raises:
        InvalidInput: the corpus is empty, or too small for the vocabulary.
        InvalidText: a document is not valid text.
        StorageError: a file cannot be read or written.
    """
    working("reading the corpus")
    corpus = _Corpus(sources, split_on, fraction=settings.validation, seed=settings.seed)
    if base is None:
        texts = (document.text for document in corpus.part(held_out=False))
        working(f"learning a vocabulary of {vocab_size:,} tokens")
        backend = train_tokenizer(texts, vocab_size=vocab_size)
        tokenizer, end_of_text = Tokenizer(backend, folder), _id_of(backend, END_OF_TEXT)
    else:
        tokenizer, end_of_text = base
    working("encoding the corpus")
    train, validation = (
        write_tokens(
            corpus.part(held_out=held_out),
            folder / f"{name}.bin",
            tokenizer=tokenizer,
            end_of_text=end_of_text,
        )
        for name, held_out in (("train", False), ("validation", True))
    )
    with atomic_write(folder / "tokenizer.json") as out:
        out.write(tokenizer.backend.to_str(pretty=True).encode())
    record = {
        "end_of_text": end_of_text,
        "train": asdict(train),
        "validation": asdict(validation),
        "by_document": bool(corpus.held),
        "sha256": corpus.sha256,
    }
    with atomic_write(folder / _INDEX) as out:
        out.write(json.dumps(record).encode())
    return load_data(folder)


def _id_of(backend: Backend, token: str) -> int:
    return backend.get_vocab(with_added_tokens=True)[token]


class _Corpus:
    """The documents of the sources, read as often as needed (stdin is kept).

    Attributes:
        held: Numbers of the documents that are held out; empty where the end of each is.
        sha256: Over all documents.
    """

    def __init__(
        self, sources: Sequence[str], split_on: str | None, *, fraction: float, seed: int
    ) -> None:
        self.files = expand(sources)
        self.split_on = split_on
        self._kept: list[Document] | None = None
        if STDIN in self.files:
            self._kept = list(read_documents(self.files, split_on=split_on))
        sizes, digest = [], hashlib.sha256()
        for document in self._documents():
            data = document.text.encode()
            digest.update(data)
            sizes.append(len(data))
        if not sizes:
            raise InvalidInput("The corpus is empty.", "Name files or folders that hold text.")
        self.sha256 = digest.hexdigest()
        self.held = frozenset[int]()
        if len(sizes) >= MIN_DOCUMENTS:
            self.held = choose_held_out(sizes, fraction, seed=seed)
        self._tail = 0.0 if self.held else fraction

    def _documents(self) -> Iterator[Document]:
        if self._kept is not None:
            return iter(self._kept)
        return read_documents(self.files, split_on=self.split_on)

    def part(self, *, held_out: bool) -> Iterator[Document]:
        """Yield the held-out part, or the other."""
        for number, document in enumerate(self._documents()):
            if not self._tail:
                if (number in self.held) == held_out:
                    yield document
                continue
            at = len(document.text) - round(len(document.text) * self._tail)
            text = document.text[at:] if held_out else document.text[:at]
            if text:
                yield Document(document.name, text)

"""What a run trains on: tokenizer, token files, held-out part; made once, kept for --resume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer as Backend

from llmcli.errors import InvalidInput
from llmcli.training.corpus import STDIN, Document, choose_held_out, expand, read_documents
from llmcli.training.settings import END_OF_TEXT, ModelShape, TrainSettings
from llmcli.training.tokens import TokenFile, load_index, save_index, write_tokens
from llmcli.training.vocabulary import train_tokenizer

_MIN_DOCUMENTS = 20
"""With fewer, a whole document would be too much (or all) of the text: a tail is held out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Tokenizer and tokens of a run.

    Attributes:
        tokenizer: Of the library.
        end_of_text: Its end-of-text token.
        train: What is trained on.
        validation: What is not.
        sha256: Of the corpus: of the documents' UTF-8 bytes, one after the other.
    """

    tokenizer: Backend
    end_of_text: int
    train: TokenFile
    validation: TokenFile
    sha256: str


def load_data(folder: Path) -> Data | None:
    """Return what :func:`prepare_data` left in the folder, or None."""
    if not (folder / "data.json").exists():
        return None
    files = load_index(folder / "index.json")
    record = json.loads((folder / "data.json").read_text())
    return Data(
        tokenizer=Backend.from_file(str(folder / "tokenizer.json")),
        end_of_text=record["end_of_text"],
        train=files["train"],
        validation=files["validation"],
        sha256=record["sha256"],
    )


def prepare_data(
    sources: Sequence[str],
    folder: Path,
    *,
    settings: TrainSettings,
    shape: ModelShape | None,
    tokenizer: Backend | None = None,
    end_of_text: int | None = None,
    split_on: str | None = None,
) -> Data:
    """Read the corpus, train a tokenizer unless one is given, and write the token files.

    Args:
        sources: Files, folders, ``-``.
        folder: Where everything is kept.
        settings: The held-out fraction and the seed.
        shape: Of a new model: its vocabulary is learned, without the held-out part.
        tokenizer: Of a model that is fine-tuned.
        end_of_text: Its end-of-text token.
        split_on: As in :func:`read_documents`.

    Raises:
        InvalidInput: the corpus is empty, or too small for the vocabulary or the held-out part.
        InvalidText: a document is not valid text.
        StorageError: a file cannot be read or written.
    """
    corpus = _Corpus(sources, split_on)
    names, sizes, sha256 = corpus.survey()
    if not names:
        raise InvalidInput("The corpus is empty.", "Name files or folders that hold text.")
    held = frozenset[int]()
    if len(names) >= _MIN_DOCUMENTS:
        held = choose_held_out(sizes, settings.validation, seed=settings.seed)
    tail = 0.0 if held else settings.validation
    if tokenizer is None or end_of_text is None:
        if shape is None:
            raise ValueError("either a shape or a tokenizer with its end-of-text token")
        texts = (d.text for d in corpus.part(held, tail, validation=False))
        tokenizer = train_tokenizer(texts, vocab_size=shape.vocab_size)
        end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    files = {
        name: write_tokens(
            corpus.part(held, tail, validation=name == "validation"),
            folder / f"{name}.bin",
            tokenizer=tokenizer,
            end_of_text=end_of_text,
        )
        for name in ("train", "validation")
    }
    tokenizer.save(str(folder / "tokenizer.json"))
    save_index(files, folder / "index.json")
    record = {"end_of_text": end_of_text, "sha256": sha256}
    (folder / "data.json").write_text(json.dumps(record))
    return Data(tokenizer=tokenizer, **record, **files)


class _Corpus:
    """The documents of the sources, read as often as needed (stdin is kept)."""

    def __init__(self, sources: Sequence[str], split_on: str | None) -> None:
        self.files = expand(sources)
        self.split_on = split_on
        self._kept = (
            list(read_documents(self.files, split_on=split_on)) if STDIN in self.files else None
        )

    def __iter__(self) -> Iterator[Document]:
        return iter(self._kept or read_documents(self.files, split_on=self.split_on))

    def survey(self) -> tuple[list[str], list[int], str]:
        """Return names, sizes in bytes, and the sha256 over all documents."""
        names, sizes, digest = [], [], hashlib.sha256()
        for document in self:
            data = document.text.encode()
            digest.update(data)
            names.append(document.name)
            sizes.append(len(data))
        return names, sizes, digest.hexdigest()

    def part(
        self, held: frozenset[int], tail: float, *, validation: bool
    ) -> Iterator[Document]:
        """Yield the held-out documents, or the others; or the last ``tail`` of each document."""
        for number, document in enumerate(self):
            if not tail:
                if (number in held) == validation:
                    yield document
                continue
            at = len(document.text) - int(len(document.text) * tail)
            text = document.text[at:] if validation else document.text[:at]
            if text:
                yield Document(document.name, text)

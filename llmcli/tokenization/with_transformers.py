"""Tokenizers that only transformers can build: SentencePiece files, classes in Python.

transformers is imported here and nowhere else in this package, and only for such a model. A
tokenizer that it converts is used as any other; one that stays Python is dressed as the
library's object (`PythonBackend`), with the ids that transformers gives.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from llmcli.errors import CorruptModel, UnsupportedModel
from llmcli.extras import install_command
from llmcli.tokenization.files import is_native_failure, one_line
from llmcli.tokenization.panics import STDOUT, quiet_panics, silent

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PythonBackend", "build_with_transformers"]

_PROBE = "Once upon a time, 2 foxes."
_RANK = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")  # a line of a tiktoken file
# What its code raises on files that are not what it expects.
_FAILURES = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,
    AssertionError,
)


def build_with_transformers(files: Path, folder: Path) -> tuple[Backend, dict[str, str]]:
    """Build a tokenizer with transformers; no code of the model's runs.

    Args:
        files: A folder with the tokenizer's files.
        folder: Where they came from, for messages.

    Returns:
        The library's object, and the texts of bos_token, eos_token and pad_token.

    Raises:
        UnsupportedModel: transformers cannot build it, or a package that it needs is missing.
        CorruptModel: the tokenizer gives no tokens for a text.
    """
    _check_packages(files, folder)
    from transformers import AutoTokenizer

    load = cast("Callable[..., PreTrainedTokenizerBase]", AutoTokenizer.from_pretrained)
    try:
        with quiet_panics(), silent(STDOUT), quiet_transformers():
            built = load(str(files), trust_remote_code=False, local_files_only=True)
    except ImportError as exc:
        raise UnsupportedModel(
            f"The tokenizer in {folder} needs a package that is not installed: {one_line(exc)}.",
            "Install it, or use a model that has tokenizer.json.",
        ) from exc
    except BaseException as exc:
        if not (is_native_failure(exc) or isinstance(exc, _FAILURES)):
            raise
        said = one_line(exc).replace(str(files), str(folder)) or type(exc).__name__
        raise UnsupportedModel(
            f"transformers cannot build the tokenizer in {folder}: {said}.",
            "Use a model that has tokenizer.json.",
        ) from exc
    converted = getattr(built, "backend_tokenizer", None)
    backend = converted if isinstance(converted, Backend) else cast(Backend, PythonBackend(built))
    try:
        ids = backend.encode(_PROBE, add_special_tokens=False).ids
    except Exception as exc:
        if not is_native_failure(exc):
            raise
        ids = [0]  # no unknown token: that is for the text to come
    if not ids:
        # Without its files transformers makes a tokenizer of one entry, and says nothing.
        raise CorruptModel(
            f"The tokenizer in {folder} gives no tokens for a text.",
            "Fetch its files again (--refresh), or copy them from the model's source.",
        )
    if set(ids) == {backend.token_to_id(str(built.unk_token))} and _pieces_files(files):
        raise UnsupportedModel(
            f"transformers cannot read the tokenizer in {folder}: every word is unknown to it.",
            "Use a model that has tokenizer.json.",
        )
    keys = ("bos_token", "eos_token", "pad_token")
    return backend, {key: str(text) for key in keys if (text := getattr(built, key, None))}


def _check_packages(files: Path, folder: Path) -> None:
    """Refuse what packages are missing for: transformers names the wrong one, or goes on without
    a vocabulary.
    """
    for path in _pieces_files(files):
        with open(path, "rb") as file:
            ranks = _RANK.match(file.read(1024)) is not None
        needed = ("tiktoken",) if ranks else ("sentencepiece", "google.protobuf")
        if not all(map(_is_installed, needed)):
            kind = "tiktoken" if ranks else "SentencePiece"
            raise UnsupportedModel(
                f"The tokenizer in {folder} is a {kind} file ({path.name}), and packages that read "
                "it are not installed.",
                f"Run: {install_command('sentencepiece')}",
            )


def _pieces_files(files: Path) -> list[Path]:
    """The SentencePiece and tiktoken files that a tokenizer is built from."""
    if (files / "tokenizer.json").is_file():
        return []
    return [path for each in ("*.model", "*.spm") for path in sorted(files.glob(each))]


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' log lines and warnings off stderr; what matters is an error here."""
    from transformers.utils import logging

    library: Any = logging
    verbosity = library.get_verbosity()
    library.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of packages that would be nice to have
            yield
    finally:
        library.set_verbosity(verbosity)


@dataclass(frozen=True, slots=True)
class _Encoding:
    """As much of the library's encoding as is used."""

    ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.ids)


class _Decoder:
    """Says to `spelling.spelling_of` how pieces are spelt, or that only transformers knows."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = json.dumps(state).encode()

    def __getstate__(self) -> bytes:
        return self._state


def _spelt(pieces: Mapping[str, int]) -> _Decoder:
    """How a vocabulary in Python spells; SentencePiece's shows in its pieces."""
    steps = []
    if any(piece.startswith("▁") for piece in pieces):
        steps = [{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}]
        if "<0x20>" in pieces:
            steps.append({"type": "ByteFallback"})
    return _Decoder({"decoders": steps or [{"type": "Transformers"}]})


class PythonBackend:
    """A tokenizer written in Python, with the methods of the library's object that are used.

    It has neither pre-tokeniser nor normaliser that could be asked, so a text is never cut.
    """

    model = pre_tokenizer = normalizer = None

    def __init__(self, built: Any) -> None:
        self._built = built
        # M2M100 keeps its languages beside its vocabulary.
        self._languages: dict[str, int] = getattr(built, "lang_token_to_id", None) or {}
        self.decoder = _spelt(self.get_vocab())
        self.encode_special_tokens = False

    def encode(self, text: str, *, add_special_tokens: bool = False) -> _Encoding:
        """Ids, tokens and offsets; a token ends where what is decoded so far leaves the text."""
        ids = self._ids(text, add_special_tokens)
        tokens = [self.id_to_token(token_id) or "" for token_id in ids]
        ends = [0]
        for count in range(1, len(ids) + 1):
            shown = self.decode(ids[:count], skip_special_tokens=False)
            pairs = zip(shown, text, strict=False)
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            ends.append(max(ends[-1], same))
        return _Encoding(ids, tokens, list(pairwise(ends)))

    def encode_batch_fast(
        self, texts: list[str], *, add_special_tokens: bool = False
    ) -> list[_Encoding]:
        """Ids alone."""
        return [_Encoding(self._ids(text, add_special_tokens), [], []) for text in texts]

    def _ids(self, text: str, add_special_tokens: bool) -> list[int]:
        ids: list[int] = self._built(
            text,
            add_special_tokens=add_special_tokens,
            split_special_tokens=self.encode_special_tokens,
        )["input_ids"]
        return ids

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        """Text, as transformers joins it."""
        return str(
            self._built.decode(
                ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
            )
        )

    def id_to_token(self, token_id: int) -> str | None:
        """The vocabulary's spelling; None outside it."""
        if token_id >= len(self._built) and token_id not in self._languages.values():
            return None
        return str(self._built.convert_ids_to_tokens(token_id))

    def token_to_id(self, token: str) -> int | None:
        """The id of a spelling; None where there is none."""
        found = self.get_vocab().get(token)
        return found if isinstance(found, int) else None

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        """Spelling to id."""
        return {**self._built.get_vocab(), **self._languages}

    def get_vocab_size(self) -> int:
        """How many entries."""
        return len(self.get_vocab())

    def get_added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Added tokens by id."""
        languages = {n: AddedToken(text, special=True) for text, n in self._languages.items()}
        return {**languages, **self._built.added_tokens_decoder}

"""Tokenizers that only transformers can build: SentencePiece files, classes in Python.

transformers is imported here and nowhere else in this package, and only for such a model. A
tokenizer that it converts is used as any other; one that stays Python is dressed as the
library's object (`PythonBackend`), with the ids that transformers gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from llmcli.errors import CorruptModel, UnsupportedModel
from llmcli.tokenization.files import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PythonBackend", "read_with_transformers"]

_PROBE = "Once upon a time, 2 foxes."


def read_with_transformers(folder: Path) -> Backend:
    """Build a folder's tokenizer with transformers; no code of the model's runs.

    Raises:
        UnsupportedModel: transformers cannot build it, or a package that it needs is missing.
        CorruptModel: the tokenizer gives no tokens for a text.
    """
    from transformers import AutoTokenizer

    load = cast("Callable[..., PreTrainedTokenizerBase]", AutoTokenizer.from_pretrained)
    try:
        built = load(str(folder), trust_remote_code=False, local_files_only=True)
    except ImportError as exc:
        raise UnsupportedModel(
            f"The tokenizer in {folder} needs a package that is not installed: {one_line(exc)}.",
            "Install it (often sentencepiece), or use a model that has tokenizer.json.",
        ) from exc
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
        raise UnsupportedModel(
            f"transformers cannot build the tokenizer in {folder}: {one_line(exc)}.",
            "Use a model that has tokenizer.json.",
        ) from exc
    converted = getattr(built, "backend_tokenizer", None)
    backend = converted if isinstance(converted, Backend) else cast(Backend, PythonBackend(built))
    if not backend.encode(_PROBE, add_special_tokens=False).ids:
        # Without its files transformers makes a tokenizer of one entry, and says nothing.
        raise CorruptModel(
            f"The tokenizer in {folder} gives no tokens for a text.",
            "Fetch its files again (--refresh), or copy them from the model's source.",
        )
    return backend


@dataclass(frozen=True, slots=True)
class _Encoding:
    """As much of the library's encoding as is used."""

    ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.ids)


class _Decoder:
    """Says to `pieces.spelling_of` that decoding is transformers' own."""

    def __getstate__(self) -> bytes:
        return b'{"type": "Transformers"}'


class PythonBackend:
    """A tokenizer written in Python, with the methods of the library's object that are used.

    It has neither pre-tokeniser nor normaliser that could be asked, so a text is never cut.
    """

    model = pre_tokenizer = normalizer = None
    decoder = _Decoder()

    def __init__(self, built: Any) -> None:
        self._built = built
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
        if token_id >= len(self._built):
            return None
        return str(self._built.convert_ids_to_tokens(token_id))

    def token_to_id(self, token: str) -> int | None:
        """The id of a spelling; None where there is none."""
        found = self.get_vocab().get(token)
        return found if isinstance(found, int) else None

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        """Spelling to id."""
        return dict(self._built.get_vocab())

    def get_vocab_size(self) -> int:
        """How many entries."""
        return len(self._built)

    def get_added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Added tokens by id."""
        return dict(self._built.added_tokens_decoder)

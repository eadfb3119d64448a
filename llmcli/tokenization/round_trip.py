"""Whether decoding gives back the text, told of a text of any size while it is encoded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from llmcli.tokenization.spelling import spell_bytes
from llmcli.tokenization.tokenizer import Tokenizer

__all__ = ["RoundTrip", "keeps_every_text"]

_LONGEST = 100_000


def keeps_every_text(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer keeps all bytes of all texts, as byte-level BPE does by itself."""
    backend = tokenizer.backend
    if tokenizer.spelling.kind != "byte" or backend.normalizer is not None:
        return False
    steps = backend.pre_tokenizer
    if steps is None or b'"add_prefix_space":true' in steps.__getstate__():
        return False
    return all(backend.token_to_id(letter) is not None for letter in spell_bytes(bytes(range(256))))


class RoundTrip:
    """Compares what went into a tokenizer with what its ids stand for, in constant memory.

    Args:
        tokenizer: The tokenizer. Where tokens do not stand for bytes (WordPiece, word lists) a
            text is decoded at its end, and one of more than 100,000 tokens counts as changed.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._follows = tokenizer.spelling.kind != "other"
        self._read, self._made = hashlib.blake2b(), hashlib.blake2b()
        self._begun = False
        self._waiting: list[int] = []

    def reading(self, parts: Iterable[str]) -> Iterator[str]:
        """Pass the text's parts on."""
        for part in parts:
            self._read.update(part.encode("utf-8", "surrogatepass"))
            yield part

    def made(self, ids: list[int]) -> None:
        """Take note of the next of its tokens."""
        if not self._follows:
            self._waiting += ids[: _LONGEST - len(self._waiting)]
        elif ids:
            self._made.update(self._tokenizer.decode_bytes(ids, start=not self._begun))
            self._begun = True

    @property
    def same(self) -> bool:
        """Whether all that was read came back."""
        if not self._follows and len(self._waiting) < _LONGEST:
            self._made.update(self._tokenizer.decode_bytes(self._waiting))
            self._waiting = []
        return self._read.digest() == self._made.digest()

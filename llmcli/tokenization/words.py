"""Which word each token belongs to, as the tokenizer's own splitting of texts has it."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from llmcli.tokenization.tokenizer import Tokenizer

__all__ = ["words_of"]

_WORD = re.compile(r"\S+")
_ODD = re.compile(r"[\udc80-\udcff]")


def words_of(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """Number the words of a text's tokens, in order; the tokens of one word have one number.

    Words are what the tokenizer's pre-tokeniser cuts a text into, so that a full stop is none of
    the word before it; stretches without white space where it has none.

    Args:
        tokenizer: Whose tokens they are.
        ids: The text's tokens.
    """
    pieces = [tokenizer.token_bytes(token) for token in ids]
    # A byte that is no character, where a window cuts one in two, counts as one.
    chars = b"".join(pieces).decode("utf-8", "surrogateescape")
    offsets = [0, *accumulate(len(char.encode("utf-8", "surrogateescape")) for char in chars)]
    text = _ODD.sub("\ufffd", chars)
    splitter = tokenizer.backend.pre_tokenizer
    if splitter is not None and tokenizer.spelling.kind == "byte":
        # White space is of a word, or one by itself.
        begins = [offsets[start] for _, (start, _) in splitter.pre_tokenize_str(text)]
        return [bisect_right(begins, end - len(piece)) for piece, end in _ends(pieces)]
    if splitter is None or tokenizer.spelling.kind == "sentencepiece":
        begins = [offsets[match.start()] for match in _WORD.finditer(text)]
    else:
        begins = [offsets[start] for _, (start, _) in splitter.pre_tokenize_str(text)]
    return [bisect_right(begins, end - max(1, len(piece.lstrip()))) for piece, end in _ends(pieces)]


def _ends(pieces: Sequence[bytes]) -> Iterator[tuple[bytes, int]]:
    """Each piece, and where it ends when they are laid end to end."""
    return zip(pieces, accumulate(map(len, pieces)), strict=True)

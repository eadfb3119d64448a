"""A model's tokens as grammars see them: their exact bytes, and which of them are text."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcli.engine.grammar.source import library
from llmcli.tokenization.tokenizer import Tokenizer

# Tokens are weighed for the shortest way out of a document by their first character.
_CLOSERS = b'"}]'
_OPENERS = b"({[<-+"
_DIGITS = b"0123456789"


class Vocabulary:
    """The tokens that a text in a grammar can be made of.

    Args:
        tokenizer: Whose they are.
        rows: How many tokens the model has; None for the tokenizer's own.
        eos_ids: Tokens that end a text; in none of them.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, rows: int | None = None, eos_ids: Collection[int] = ()
    ) -> None:
        size = tokenizer.vocab_size
        self.size = size if rows is None else min(rows, size)
        self.eos_ids = tuple(sorted(each for each in eos_ids if each < self.size))
        apart = tokenizer.special_ids.union(eos_ids)
        self.tokens = [
            tokenizer.token_bytes(each) if each in tokenizer and each not in apart else b""
            for each in range(self.size)
        ]
        self._tokenizer = tokenizer

    def ids(self, data: bytes) -> list[int]:
        """Tokens whose bytes, joined, are ``data``: as the tokenizer divides it, where it does."""
        try:
            ids = self._tokenizer.ids(data.decode("utf-8"))
        except UnicodeDecodeError:
            ids = []
        if all(each < self.size for each in ids):
            found = [self.tokens[each] for each in ids]
            # What spells a space before a text's first word.
            if found and found[0] == b" " and found[0] + data == b"".join(found):
                ids, found = ids[1:], found[1:]
            if b"".join(found) == data:
                return ids
        return self._longest(data)

    def _longest(self, data: bytes) -> list[int]:
        """The longest token at each place; what no token begins with is left out."""
        ids, at = [], 0
        while at < len(data):
            for length in range(min(self._most, len(data) - at), 0, -1):
                token = self._by_bytes.get(data[at : at + length])
                if token is not None:
                    ids.append(token)
                    at += length
                    break
            else:
                at += 1
        return ids

    @cached_property
    def _by_bytes(self) -> dict[bytes, int]:
        return {data: token for token, data in enumerate(self.tokens) if data}

    @cached_property
    def _most(self) -> int:
        return max(map(len, self.tokens), default=0)

    @cached_property
    def library_tokenizer(self) -> Any:
        """What llguidance knows of it.

        Its end-of-text token is one that no model has, behind all others: when a text may end is
        asked, not read off a mask.

        Raises:
            LlmcliError: llguidance is not installed.
        """
        llguidance = library()
        end = self.size
        wrapper = llguidance.TokenizerWrapper(
            _Description(
                tokens=[*self.tokens, b"\xff[end]"],
                eos_token_id=end,
                special_token_ids=[end],
                divide=self.ids,
            )
        )
        return llguidance.LLTokenizer(wrapper)

    @cached_property
    def costs(self) -> npt.NDArray[np.float32]:
        """How far a token is thought to lead away from a document's end, [size]; low is near.

        What closes comes first, then marks, digits and letters, and last what opens; of the same
        kind the longest.
        """
        return np.array([_cost(data) for data in self.tokens], np.float32)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """How many bytes each token has, [size]."""
        return np.array([len(data) for data in self.tokens], np.int64)

    @cached_property
    def first_bytes(self) -> npt.NDArray[np.int64]:
        """Each token's first byte, [size]; -1 for none."""
        return np.array([data[0] if data else -1 for data in self.tokens], np.int64)


class _Description:
    """A tokenizer as llguidance wants to be told of one."""

    bos_token_id = None

    def __init__(
        self,
        *,
        tokens: list[bytes],
        eos_token_id: int,
        special_token_ids: list[int],
        divide: Callable[[bytes], list[int]],
    ) -> None:
        self.tokens = tokens
        self.eos_token_id = eos_token_id
        self.special_token_ids = special_token_ids
        self._divide = divide

    def __call__(self, data: bytes) -> list[int]:
        return self._divide(data)


def _cost(data: bytes) -> float:
    first = data[:1]
    if not first:
        return 9.0
    length = min(len(data), 64) / 100
    if first in _CLOSERS:
        # Inside a string only a quotation mark closes, and brackets are text like any other; one
        # that opens again what it closes gains nothing.
        closes = all(byte in _CLOSERS for byte in data)
        return (0.0 if closes and first == b'"' else 1.0 if closes else 2.0) - length
    if first in _OPENERS:
        return 6.0 + length
    if first in _DIGITS:
        return 4.0 - length
    return (5.0 if first.isalpha() or first >= b"\x80" else 3.0) - length

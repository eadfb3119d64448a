"""A grammar for one vocabulary, and one text on its way through it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcli.engine.grammar.closing import LONGEST, allowed, shorter, way_out
from llmcli.engine.grammar.source import GrammarSource, library
from llmcli.engine.grammar.vocabulary import Vocabulary
from llmcli.errors import InvalidInput

Mask = npt.NDArray[np.bool_]


class Grammar:
    """A grammar that texts of one model can be held to; a setting of theirs.

    Args:
        source: What was written.
        vocabulary: The model's tokens.

    Raises:
        InvalidInput: it cannot be compiled, says what is not supported, allows no text, or none
            that the model's tokens can spell.
        LlmcliError: llguidance is not installed.
    """

    def __init__(self, source: GrammarSource, vocabulary: Vocabulary) -> None:
        self.source = source
        self.vocabulary = vocabulary
        text = source.compiled()
        matcher = library().LLMatcher(vocabulary.library_tokenizer, text, log_level=0)
        matcher.compute_bitmask()  # much is only found to be too large here
        _check(matcher, source)
        self._matcher = matcher
        way = way_out(matcher, vocabulary, LONGEST)
        _check(matcher, source)
        if way is None:
            raise InvalidInput(
                f"The {source.name} allows no text of at most {LONGEST:,} of the model's tokens.",
                "Check it for a part that must contain itself, and for what they cannot spell.",
            )
        self._way = way

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grammar) and self.source == other.source

    def __hash__(self) -> int:
        return hash(self.source)

    def __repr__(self) -> str:
        return f"Grammar({self.source.kind})"

    def check_room(self, room: int) -> None:
        """Refuse a text that would end before any document could.

        Args:
            room: How many tokens there may be.

        Raises:
            InvalidInput: the shortest document is longer.
        """
        if self.shortest(room) > room:
            raise InvalidInput(
                f"The shortest text of the {self.source.name} takes {len(self._way)} tokens, and "
                f"there is room for {room}.",
                "Raise -n, or shorten the prompt.",
            )

    def shortest(self, room: int = 0) -> int:
        """How many tokens the shortest text takes; looked for with effort only above ``room``."""
        if len(self._way) > room:
            found = shorter(self._matcher, self.vocabulary, len(self._way) - 1)
            self._way = found or self._way
        return len(self._way)

    def start(self, *, forbidden: frozenset[int] = frozenset(), ends: bool = True) -> Constraint:
        """A text that begins.

        Args:
            forbidden: Tokens that its settings never allow.
            ends: Whether an end-of-text token may end it.
        """
        way = self._way
        matcher = self._matcher.deep_copy()
        if not forbidden.isdisjoint(way):
            way = way_out(matcher, self.vocabulary, LONGEST, forbidden=forbidden) or way
        eos_ids = self.vocabulary.eos_ids if ends else ()
        ending = tuple(each for each in eos_ids if each not in forbidden)
        return Constraint(matcher, self, way, forbidden, ending)


class Constraint:
    """Says of one text what may come next, and how it ends in time.

    A way to the document's end is known at every moment, of as many tokens as are left or fewer.
    A token from which no such way is found is not taken: the way's own next token is.
    """

    def __init__(
        self,
        matcher: Any,
        grammar: Grammar,
        way: list[int],
        forbidden: frozenset[int],
        eos_ids: tuple[int, ...],
    ) -> None:
        self._matcher = matcher
        self._grammar = grammar
        self._vocabulary = grammar.vocabulary
        self._way = way
        self._forbidden = forbidden
        self._eos_ids = eos_ids
        self._settled: tuple[int, list[int]] | None = None
        self._mask: Mask | None = None

    @property
    def complete(self) -> bool:
        """Whether the text so far is one of the grammar's."""
        return bool(self._matcher.is_accepting())

    @property
    def finished(self) -> bool:
        """Whether it is, and nothing may follow, or nothing could say that nothing does."""
        return self.complete and (not self._eos_ids or bool(self._matcher.is_stopped()))

    def mask(self, size: int, left: int) -> Mask:
        """Which tokens may come next, [size].

        Args:
            size: How many tokens the logits have.
            left: How many tokens may follow; with as many as the way has, it is the only one.

        Raises:
            InvalidInput: the grammar has become too large to follow.
        """
        if self._mask is None:
            self._mask = self._allowed()
        mask = self._mask
        if self._way and len(self._way) >= left:
            mask = np.zeros_like(mask)
            mask[self._way[0]] = True
        return _sized(mask, size)

    def settle(self, token: int, left: int) -> int:
        """Return the token that is taken where one was drawn; nothing is noted yet.

        Args:
            token: What was drawn, of those that the mask allows.
            left: How many tokens may come, this one among them.
        """
        if token in self._eos_ids:
            return token
        way = self._way
        if way and way[0] == token:
            self._settled = token, way[1:]
            return token
        self._matcher.consume_token(token)
        found = way_out(
            self._matcher, self._vocabulary, left - 1, old=way, forbidden=self._forbidden
        )
        self._check()
        self._matcher.rollback(1)
        if found is not None:
            self._settled = token, found
            return token
        if not way:  # complete as it is
            return self._eos_ids[0] if self._eos_ids else token
        self._settled = way[0], way[1:]
        return way[0]

    def take(self, token: int) -> None:
        """Go on by a token that was settled."""
        self._mask = None
        if token in self._eos_ids:
            return
        self._matcher.consume_token(token)
        if self._settled is not None and self._settled[0] == token:
            self._way = self._settled[1]
        self._settled = None

    @contextmanager
    def ahead(self) -> Iterator[Lookahead]:
        """Go on for a while, as a draft does; what was taken is taken back."""
        lookahead = Lookahead(self._matcher, self._vocabulary.size, self._eos_ids)
        try:
            yield lookahead
        finally:
            lookahead.take_back()

    def cut(self, tokens: Sequence[int]) -> list[int]:
        """The beginning of some tokens that may come next."""
        with self.ahead() as ahead:
            return list(takewhile(ahead.take, tokens))

    def _allowed(self) -> Mask:
        mask = _masked(self._matcher, self._vocabulary.size, self._eos_ids)
        self._check()
        return mask

    def _check(self) -> None:
        _check(self._matcher, self._grammar.source)


class Lookahead:
    """A text's grammar some tokens further on."""

    def __init__(self, matcher: Any, size: int, eos_ids: tuple[int, ...]) -> None:
        self._matcher = matcher
        self._size = size
        self._eos_ids = eos_ids
        self._taken = 0

    def mask(self, size: int) -> Mask:
        """Which tokens may come next, [size]."""
        mask = _masked(self._matcher, self._size, self._eos_ids)
        return _sized(mask, size)

    def take(self, token: int) -> bool:
        """Go on by a token; false, and nothing done, where it may not come or ends the text."""
        if self._matcher.is_stopped() or not self._matcher.validate_tokens([token]):
            return False
        self._matcher.consume_token(token)
        self._taken += 1
        return True

    def take_back(self) -> None:
        """Undo all that was taken."""
        self._matcher.rollback(self._taken)
        self._taken = 0


def _masked(matcher: Any, size: int, eos_ids: tuple[int, ...]) -> Mask:
    """Which tokens may come next, those that end a text among them where it may end."""
    mask = np.zeros(size, np.bool_) if matcher.is_stopped() else allowed(matcher, size)
    if matcher.is_accepting():
        mask[list(eos_ids)] = True
    return mask


def _sized(mask: Mask, size: int) -> Mask:
    """The same for logits of another size: rows that only pad the embedding are no tokens."""
    return mask[:size] if size <= len(mask) else np.pad(mask, (0, size - len(mask)))


def _check(matcher: Any, source: GrammarSource) -> None:
    if matcher.is_error():
        raise source.refused(matcher.get_error())

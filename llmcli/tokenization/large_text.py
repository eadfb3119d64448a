"""Text of any size -> token ids, in bounded memory, on all cores, the same as encoded whole."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from tokenizers import Encoding as BackendEncoding

from llmcli.errors import InvalidInput
from llmcli.system import usable_processors

if TYPE_CHECKING:  # the rules are imported where a text is long: they take time to compile
    from llmcli.tokenization.cut_rules import CutRule
    from llmcli.tokenization.tokenizer import SpecialTokens, Tokenizer

__all__ = ["MAX_UNCUT", "PIECE_CHARS", "Piece", "encode_pieces", "encode_texts", "set_threads"]

PIECE_CHARS = 1 << 16  # larger ones are slower; the library needs 400 bytes a character
MAX_UNCUT = 1 << 24
_TILE_SLICE = 1 << 16
_WINDOW = 1 << 15
_SEEN_AHEAD = 64
_OVERHEAD = 64  # what a text costs by itself, in characters' worth of memory

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Piece:
    """The tokens of one part of a text, in order: a library's encoding, or the ids themselves."""

    encoded: BackendEncoding | list[int]

    @property
    def count(self) -> int:
        """How many tokens (without making a list of them)."""
        return len(self.encoded)

    @property
    def ids(self) -> list[int]:
        """Their ids."""
        return self.encoded if isinstance(self.encoded, list) else self.encoded.ids


def set_threads(threads: int | None) -> int:
    """Say how many threads encode; before the first encoding of the process.

    Args:
        threads: How many; None for what RAYON_NUM_THREADS says, or all cores.

    Returns:
        The number in force.
    """
    if threads is None:
        said = os.environ.get("RAYON_NUM_THREADS", "")
        threads = int(said) if said.isdecimal() and int(said) > 0 else usable_processors()
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    return threads


def encode_pieces(
    tokenizer: Tokenizer,
    texts: Iterable[str],
    *,
    special: SpecialTokens = "text",
    threads: int | None = None,
    piece_chars: int = PIECE_CHARS,
) -> Iterator[Piece]:
    """Encode a text that arrives in parts; the ids, joined, are those of the joined text.

    A text shorter than ``piece_chars`` is encoded at once. A longer one is cut where the
    pre-tokeniser certainly splits (`cuts`), and the parts are encoded side by side; what lies in
    memory is a few parts a thread.

    Args:
        tokenizer: The tokenizer.
        texts: The text's parts, cut anywhere between characters.
        special: As in `Tokenizer.ids`.
        threads: As in `set_threads`.
        piece_chars: How long a part is.

    Raises:
        InvalidInput: a control token under "forbid", or over 2^24 characters (16 Mi) without a
            place that is certain; by most tokenizers' rules that is a text without spaces.
        InvalidText: a lone surrogate.
    """
    parts = _Parts(tokenizer, texts, special=special, piece_chars=piece_chars)
    tokenizer.prepare(special)
    first = parts.fill(piece_chars)
    if parts.ended and len(first) <= piece_chars:
        if first:
            tokenizer.check(first, special=special)
            yield Piece(tokenizer.encode_batch_fast([first])[0])
        return

    def encode(part: str | list[int]) -> Piece:
        return Piece(part if isinstance(part, list) else tokenizer.encode_batch_fast([part])[0])

    jobs = ((isinstance(part, str), partial(encode, part)) for part in parts.split())
    yield from _in_order(jobs, set_threads(threads))


def encode_texts(
    tokenizer: Tokenizer,
    texts: Iterable[str],
    *,
    special: SpecialTokens = "text",
    threads: int | None = None,
) -> Iterator[Piece]:
    """Encode many texts side by side; one `Piece` for each, in order.

    Arguments and errors are those of `encode_pieces`; a long text is cut as there.
    """
    tokenizer.prepare(special)
    workers = set_threads(threads)

    def encode(group: list[str] | str) -> list[Piece]:
        if isinstance(group, list):
            return [Piece(encoded) for encoded in tokenizer.encode_batch_fast(group)]
        pieces = encode_pieces(tokenizer, [group], special=special, threads=workers)
        return [Piece([token_id for piece in pieces for token_id in piece.ids])]

    groups = _grouped(tokenizer, texts, special)
    jobs = ((isinstance(group, list), partial(encode, group)) for group in groups)
    for pieces in _in_order(jobs, workers):
        yield from pieces


def _grouped(
    tokenizer: Tokenizer, texts: Iterable[str], special: SpecialTokens
) -> Iterator[list[str] | str]:
    """Texts in groups of about a piece's size; a text longer than a piece comes alone."""
    group: list[str] = []
    size = 0
    for text in texts:
        if len(text) > PIECE_CHARS:
            if group:
                yield group
            yield text
            group, size = [], 0
            continue
        tokenizer.check(text, special=special)
        group.append(text)
        size += len(text) + _OVERHEAD
        if size > PIECE_CHARS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _in_order(jobs: Iterable[tuple[bool, Callable[[], Result]]], threads: int) -> Iterator[Result]:
    """Do jobs on several threads, a few ahead, and give their results in order.

    The library lets go of the interpreter's lock while it encodes. A job comes with whether it
    may run beside others; one that may not is done here, after those before it.
    """
    from concurrent.futures import Future, ThreadPoolExecutor

    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="encode")
    try:
        for beside, job in jobs:
            if beside:
                waiting.append(pool.submit(job))
            while waiting and (not beside or len(waiting) > 2 * threads):
                yield waiting.popleft().result()
            if not beside:
                yield job()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Parts:
    """A text that arrives in parts, split again where it may be cut."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        texts: Iterable[str],
        *,
        special: SpecialTokens,
        piece_chars: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend
        self._texts = (
            text[start : start + piece_chars]
            for text in texts
            for start in range(0, len(text), piece_chars)
        )
        self._special = special
        self._piece_chars = piece_chars
        self._text = ""
        self._start = 0  # where _text begins
        self.ended = False

    def fill(self, size: int) -> str:
        """Read until ``size`` characters are there, or the end; give what is there."""
        parts = [self._text]
        length = len(self._text)
        while length < size and not self.ended:
            part = next(self._texts, None)
            if part is None:
                self.ended = True
            else:
                parts.append(part)
                length += len(part)
        self._text = "".join(parts)
        return self._text

    def split(self) -> Iterator[str | list[int]]:
        """The text in parts, each cut from the next for certain; ids where a tile was joined."""
        from llmcli.tokenization.cut_rules import cut_rule

        rule = cut_rule(self._backend, allow_special=self._special != "text")
        wanted, searched = self._piece_chars, 0
        while text := self.fill(wanted):
            if self.ended and len(text) <= self._piece_chars:
                yield self._take(len(text))
                return
            if cut := self._cut(text, rule, searched):
                yield self._take(cut, drop=rule is not None and rule.drop_space)
            elif rule is not None and self._can_join(text, rule):
                yield from self._join(rule)
            elif len(text) > MAX_UNCUT:
                raise _uncut()
            elif self.ended:
                yield self._take(len(text))
                return
            else:
                wanted, searched = len(text) + self._piece_chars, len(text)
                continue
            wanted, searched = self._piece_chars, 0

    def _cut(self, text: str, rule: CutRule | None, searched: int) -> int:
        from llmcli.tokenization.cut_rules import last_cut, last_tile_edge

        if rule is None:
            return 0
        cut = last_cut(text, rule, searched)
        if not cut and rule.tiles and not searched:
            cut = last_tile_edge(text[:_TILE_SLICE], self._backend)
        return cut

    def _take(self, size: int, *, drop: bool = False) -> str:
        part = self._text[:size]
        self._tokenizer.check(part, special=self._special, start=self._start)
        self._text = self._text[size + drop :]
        self._start += size + drop
        return part

    def _can_join(self, text: str, rule: CutRule) -> bool:
        if not rule.joins or len(text) < _WINDOW + _SEEN_AHEAD:
            return False
        return rule.space_joins or not text[_WINDOW].isspace()

    def _join(self, rule: CutRule) -> Iterator[list[int]]:
        """Encode the tile that the text begins with, however long it is.

        The tile is a run of one class, so its rest, taken alone, is a tile with the same end as
        long as it is seen to go on for a while (an apostrophe before a letter would be none of
        it). A run of spaces may have other rules; then it is not cut.
        """
        from llmcli.tokenization.long_runs import TileJoiner

        joiner = TileJoiner(self._backend)
        while True:
            text = self.fill(_WINDOW + _SEEN_AHEAD)[: _WINDOW + _SEEN_AHEAD]
            end = self._backend.pre_tokenizer.pre_tokenize_str(text)[0][1][1]
            last = end <= len(text) - 3 or (self.ended and len(text) == len(self._text))
            if not last and not self._can_join(text, rule):
                raise _uncut()
            yield from joiner.push(self._take(end if last else _WINDOW), last=last)
            if last:
                return


def _uncut() -> InvalidInput:
    return InvalidInput(
        f"The text holds over {MAX_UNCUT} characters without a place where this tokenizer "
        "certainly splits.",
        "Put spaces or newlines into it, or encode it in parts (--lines).",
    )

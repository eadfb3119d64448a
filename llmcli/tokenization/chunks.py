"""Text cut to a number of tokens, and into chunks of at most so many: never inside a character."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from llmcli.errors import InvalidInput
from llmcli.tokenization.large_text import encode_pieces
from llmcli.tokenization.stream import StreamDecoder
from llmcli.tokenization.tokenizer import SpecialTokens, Tokenizer

__all__ = ["Boundary", "Chunk", "Side", "beginning", "split", "token_edges", "truncate"]

Side = Literal["head", "tail", "middle"]
Boundary = Literal["paragraph", "sentence", "word", "token"]

# Each ends where a chunk may end. A word ends before its space, which belongs to the next token.
_ENDS: dict[str, re.Pattern[str]] = {
    "paragraph": re.compile(r"\n[ \t\r]*\n\s*"),
    "sentence": re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？]+[」』”’）]*\s*"),
    "word": re.compile(r"\S(?=\s)"),
}
_ORDER: tuple[Boundary, ...] = ("paragraph", "sentence", "word")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a text: ``text[start:end]``.

    Attributes:
        index: Which chunk, from 0.
        text: The part.
        count: Its tokens when it is encoded alone.
        start, end: Where it lies, in characters.
        byte_start, byte_end: The same in bytes of UTF-8.
    """

    index: int
    text: str
    count: int
    start: int
    end: int
    byte_start: int
    byte_end: int


def token_edges(
    tokenizer: Tokenizer,
    text: str,
    *,
    special: SpecialTokens = "text",
    limit: int | None = None,
    threads: int | None = None,
) -> array[int]:
    """Where each token ends, in characters: those that are whole after it.

    Args:
        tokenizer: The tokenizer.
        text: The text.
        special: As in `Tokenizer.ids`.
        limit: Stop after so many tokens.
        threads: As in `set_threads`.

    Raises:
        InvalidInput: the tokens' bytes are not the text's (a normaliser or an unknown token
            changed it) and the text is too long for the library's own offsets.
    """
    edges = array("Q")
    decoder = StreamDecoder(errors="replace")
    end = 0
    for piece in encode_pieces(tokenizer, [text], special=special, threads=threads):
        for token_id in piece.ids:
            data = tokenizer.token_bytes(token_id)
            if not edges and tokenizer.spelling.prefix_space and not text.startswith(" "):
                data = data.removeprefix(b" ")
            shown = decoder.push(data)
            if not text.startswith(shown, end):
                return _library_edges(tokenizer, text, special, limit)
            end += len(shown)
            edges.append(end)
            if len(edges) == limit:
                return edges
    if end != len(text):
        return _library_edges(tokenizer, text, special, limit)
    return edges


def _library_edges(
    tokenizer: Tokenizer, text: str, special: SpecialTokens, limit: int | None
) -> array[int]:
    spans = tokenizer.encode(text, special=special).char_offsets
    return array("Q", [end for _, end in spans][:limit])


def beginning(
    tokenizer: Tokenizer,
    parts: Iterable[str],
    max_tokens: int,
    *,
    special: SpecialTokens = "text",
    threads: int | None = None,
) -> str:
    """As much of a text as `truncate` must see to drop its tail; no more is read.

    The tokens in front are those of the whole text, and there are more than ``max_tokens`` of
    them unless the text has no more.

    Args:
        tokenizer: The tokenizer.
        parts: The text, as it is read.
        max_tokens: At least 0.
        special: As in `Tokenizer.ids`.
        threads: As in `set_threads`.
    """
    read: list[str] = []

    def reading() -> Iterator[str]:
        for part in parts:
            read.append(part)
            yield part

    count = 0
    for piece in encode_pieces(tokenizer, reading(), special=special, threads=threads):
        count += piece.count
        if count > max_tokens:
            break
    return "".join(read)


def truncate(
    tokenizer: Tokenizer,
    text: str,
    max_tokens: int,
    *,
    drop: Side = "tail",
    special: SpecialTokens = "text",
    threads: int | None = None,
) -> str:
    """The text without its tail, head or middle, so that it has at most ``max_tokens`` tokens.

    What is kept is encoded again, because a text cut off may divide differently; where that
    gives too many tokens, more is dropped.

    Args:
        tokenizer: The tokenizer.
        text: The text.
        max_tokens: At least 0.
        drop: Which part goes; "middle" keeps as many tokens in front as behind.
        special: As in `Tokenizer.ids`.
        threads: As in `set_threads`.
    """
    # One more than may stay tells whether anything is to be dropped.
    limit = max_tokens + 1 if drop == "tail" else None
    edges = token_edges(tokenizer, text, special=special, limit=limit, threads=threads)
    if len(edges) <= max_tokens and (limit is None or not edges or edges[-1] == len(text)):
        return text
    kept = max_tokens
    while kept > 0:
        short = _without(text, edges, kept, drop)
        count = len(tokenizer.ids(short, special=special))
        if count <= max_tokens:
            return short
        kept -= count - max_tokens
    return ""


def _without(text: str, edges: array[int], kept: int, drop: Side) -> str:
    """The text with ``kept`` of its tokens, rounded to whole characters."""
    if drop == "tail":
        return text[: edges[kept - 1]]
    behind = kept if drop == "head" else kept // 2
    before = kept - behind
    # The edge in front of the last tokens; a character that straddles it is dropped.
    start = _round_up(edges, len(edges) - behind, len(text))
    return text[: edges[before - 1] if before else 0] + text[start:]


def _round_up(edges: array[int], index: int, end: int) -> int:
    """The first whole character that begins in the token ``index`` or after it."""
    if index >= len(edges):
        return end
    if index <= 0:
        return 0
    edge = edges[index - 1]
    # A token that completes no character ends inside one, which the next edge completes.
    inside = index >= 2 and edges[index - 2] == edge
    return edges[bisect_right(edges, edge)] if inside else edge


def split(
    tokenizer: Tokenizer,
    text: str,
    max_tokens: int,
    *,
    overlap: int = 0,
    boundary: Boundary = "paragraph",
    special: SpecialTokens = "text",
    threads: int | None = None,
) -> Iterator[Chunk]:
    """Split a text into chunks that have at most ``max_tokens`` tokens each, encoded alone.

    A chunk ends after the last paragraph in its second half, else after the last sentence
    there, else the last word, else the last token; ``boundary`` says with which to begin. With
    no overlap the chunks' texts, joined, are the text.

    Args:
        tokenizer: The tokenizer.
        text: The text; an empty one gives no chunk.
        max_tokens: At least 1.
        overlap: How many tokens a chunk repeats of the one before; below ``max_tokens``.
        boundary: The coarsest place that is looked for.
        special: As in `Tokenizer.ids`.
        threads: As in `set_threads`.

    Raises:
        InvalidInput: the overlap is not below the size, or a single character has more tokens.
    """
    if not 0 <= overlap < max_tokens:
        raise InvalidInput(
            f"The overlap ({overlap}) is not below the size of a chunk ({max_tokens}).",
            "Lower --overlap or raise --split.",
        )
    edges = token_edges(tokenizer, text, special=special, threads=threads)
    start = byte_start = covered = index = 0
    while covered < len(text):
        end, count = _chunk_end(tokenizer, text, edges, start, max_tokens, boundary, special)
        if end <= covered and start < covered:
            # What is repeated fills the chunk up to the end of the last one: repeat nothing.
            byte_start += len(text[start:covered].encode("utf-8"))
            start = covered
            continue
        chunk = text[start:end]
        byte_end = byte_start + len(chunk.encode("utf-8"))
        yield Chunk(index, chunk, count, start, end, byte_start, byte_end)
        following = end
        if overlap:
            following = _round_up(edges, bisect_right(edges, end) - overlap, len(text))
            following = following if start < following < end else end
        byte_start += len(text[start:following].encode("utf-8"))
        start, covered, index = following, end, index + 1


def _chunk_end(
    tokenizer: Tokenizer,
    text: str,
    edges: array[int],
    start: int,
    max_tokens: int,
    boundary: Boundary,
    special: SpecialTokens,
) -> tuple[int, int]:
    """Where the chunk that begins at ``start`` ends, and how many tokens it has."""
    first = bisect_right(edges, start)
    size = max_tokens
    while size > 0:
        last = min(first + size, len(edges)) - 1
        end = edges[last] if last >= 0 else len(text)
        if end < len(text):
            end = _nice_end(text, start, end, boundary)
        if end <= start:
            break
        count = len(tokenizer.ids(text[start:end], special=special))
        if count <= max_tokens:
            return end, count
        size = min(size - 1, size - (count - max_tokens))
    end = edges[bisect_left(edges, start + 1)]
    count = len(tokenizer.ids(text[start:end], special=special))
    if count > max_tokens:
        raise InvalidInput(
            f"The character at offset {start} has {count} tokens, more than {max_tokens}.",
            "Raise --split.",
        )
    return end, count


def _nice_end(text: str, start: int, end: int, boundary: Boundary) -> int:
    """The best place to end a chunk in the second half of ``text[start:end]``."""
    middle = start + (end - start) // 2
    for kind in _ORDER[_ORDER.index(boundary) :] if boundary in _ORDER else ():
        # One character beyond, to see the space that ends a word at the very end.
        places = [m.end() for m in _ENDS[kind].finditer(text, middle, end + 1) if m.end() <= end]
        if places:
            return places[-1]
    return end

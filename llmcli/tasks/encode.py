"""Text to a model's tokens: encoded, counted, compared, cut, split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from llmcli.errors import InvalidInput
from llmcli.io.batch import Batch
from llmcli.io.records import Record
from llmcli.reporting import Notify, silent

if TYPE_CHECKING:
    from llmcli.hub.resolve import ResolvedModel
    from llmcli.tokenization.chunks import Boundary, Chunk, Side
    from llmcli.tokenization.large_text import Piece
    from llmcli.tokenization.tokenizer import SpecialTokens, Tokenizer

K = TypeVar("K")

_INDEX = re.compile(r"\{index(?::0?(\d{1,2}))?\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """The tokens of a text.

    Attributes:
        ids: Their ids.
        data: The bytes of each.
        offsets: Where each begins and ends, in characters.
        byte_offsets: The same in bytes of UTF-8.
    """

    ids: list[int]
    data: list[bytes]
    offsets: list[tuple[int, int]]
    byte_offsets: list[tuple[int, int]]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "ids": self.ids,
            "tokens": [each.decode("utf-8", "replace") for each in self.data],
            "bytes": [None if _is_text(each) else each.hex() for each in self.data],
            "offsets": self.offsets,
            "byte_offsets": self.byte_offsets,
            "count": len(self.ids),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Whether a text has at most so many tokens.

    Attributes:
        count: How many it has; where counting stopped early, more than the limit.
        max_tokens: The limit.
    """

    count: int
    max_tokens: int

    @property
    def fits(self) -> bool:
        """Whether it has."""
        return self.count <= self.max_tokens

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"count": self.count, "max_tokens": self.max_tokens, "fits": self.fits}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerCount:
    """How many tokens a tokenizer makes of some texts.

    Attributes:
        model: Whose tokenizer.
        revision: The Hub's commit of it, or the sha256 of a folder's weights.
        count: How many tokens.
        bytes: The texts' bytes of UTF-8.
        vocab_size: The tokens there are.
    """

    model: str
    revision: str | None
    count: int
    bytes: int
    vocab_size: int

    @property
    def tokens_per_byte(self) -> float:
        """The count over the bytes; 0 of nothing."""
        return self.count / self.bytes if self.bytes else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "model": self.model,
            "revision": self.revision,
            "count": self.count,
            "bytes": self.bytes,
            "tokens_per_byte": self.tokens_per_byte,
            "vocab_size": self.vocab_size,
        }


@dataclass(kw_only=True)
class Encoder:
    """A model's tokenizer and how it is to be used.

    Attributes:
        tokenizer: The tokenizer.
        model: Where it is from.
        special: What control tokens spelt out in a text are.
        threads: Processor threads; None for all.
        front: What is put before each text.
        back: What is put behind it.
        notify: Told once where decoding will not give back a text.
    """

    tokenizer: Tokenizer
    model: ResolvedModel
    special: SpecialTokens = "text"
    threads: int | None = None
    front: list[int] = field(default_factory=list)
    back: list[int] = field(default_factory=list)
    notify: Notify = silent
    _warned: bool = field(default=False, init=False)

    def surround(self, *, bos: bool | None, eos: bool) -> None:
        """Put a begin-of-text and an end-of-text token around each text.

        Args:
            bos: Whether there is one in front; None for what the tokenizer does by itself.
            eos: Whether there is one behind.

        Raises:
            InvalidInput: the tokenizer names no such token.
        """
        tokenizer = self.tokenizer
        if bos is None:
            bos = tokenizer.bos_id is not None and tokenizer.adds_bos
        if bos:
            self.front = [_required(tokenizer.bos_id, "begin-of-text", "--add-bos")]
        if eos:
            self.back = [_required(tokenizer.eos_id, "end-of-text", "--add-eos")]

    @property
    def provenance(self) -> dict[str, Any]:
        """What every JSON record says of the model."""
        return {"model": self.model.name, "revision": self.model.revision}

    @property
    def extra(self) -> int:
        """How many tokens are added to each text."""
        return len(self.front) + len(self.back)

    @cached_property
    def exact(self) -> bool:
        """Whether decoding gives back every text, whatever it is."""
        from llmcli.tokenization.round_trip import keeps_every_text

        return keeps_every_text(self.tokenizer)

    def pieces(self, parts: Iterable[str]) -> Iterator[Piece]:
        """The tokens of a text of any size, without those that are added."""
        from llmcli.tokenization.large_text import encode_pieces

        return encode_pieces(self.tokenizer, parts, special=self.special, threads=self.threads)

    def batch_ids(self, batch: Batch, records: Iterable[Record]) -> Iterator[list[int]]:
        """The ids of each record, encoded side by side, with those that are added."""
        for piece in self._batch(batch, records):
            yield [*self.front, *piece[1].ids, *self.back]

    def batch_counts(self, batch: Batch, records: Iterable[Record]) -> Iterator[tuple[Record, int]]:
        """Each record with how many ids it has, those that are added among them."""
        for record, piece in self._batch(batch, records):
            yield record, piece.count + self.extra

    def side_by_side(self, texts: Iterable[tuple[K, str]]) -> Iterator[tuple[K, Piece]]:
        """Encode texts of which each comes back with what it was given with, in order."""
        from collections import deque

        from llmcli.tokenization.large_text import encode_texts

        waiting: deque[K] = deque()

        def begun() -> Iterator[str]:
            for key, text in texts:
                waiting.append(key)
                yield text

        for piece in encode_texts(
            self.tokenizer, begun(), special=self.special, threads=self.threads
        ):
            yield waiting.popleft(), piece

    def _batch(self, batch: Batch, records: Iterable[Record]) -> Iterator[tuple[Record, Piece]]:
        texts = ((record, record.text) for record in batch.read(records))
        for record, piece in self.side_by_side(texts):
            yield record, piece
            batch.done()

    def id_lists(self, parts: Iterable[str]) -> Iterator[list[int]]:
        """The ids of a text of any size, with those that are added, in lists."""
        from llmcli.tokenization.round_trip import RoundTrip

        trip = None if self.exact else RoundTrip(self.tokenizer)
        if trip is not None:
            parts = trip.reading(parts)
        yield self.front
        for piece in self.pieces(parts):
            if trip is not None:
                trip.made(piece.ids)
            yield piece.ids
        yield self.back
        if trip is not None and not trip.same:
            self._warn_of_change()

    def count(self, parts: Iterable[str]) -> int:
        """How many ids a text of any size has, those that are added among them."""
        return sum(piece.count for piece in self.pieces(parts)) + self.extra

    def fit(self, parts: Iterable[str], max_tokens: int, *, whole: bool) -> Fit:
        """Whether a text has at most so many ids; unless ``whole``, no more is read than needed."""
        count = self.extra
        for piece in self.pieces(parts):
            count += piece.count
            if count > max_tokens and not whole:
                break
        return Fit(count=count, max_tokens=max_tokens)

    def tokens(self, text: str) -> Tokens:
        """A text's tokens with their bytes and offsets, and those that are added."""
        encoding = self.tokenizer.encode(text, special=self.special)
        data = text.encode("utf-8")
        before = [(0, 0)] * len(self.front)
        if not self.exact and self.tokenizer.decode_bytes(encoding.ids) != data:
            self._warn_of_change()
        ids = [*self.front, *encoding.ids, *self.back]
        behind = len(self.back)
        return Tokens(
            ids=ids,
            data=[self.tokenizer.token_bytes(token_id) for token_id in ids],
            offsets=[*before, *encoding.char_offsets, *[(len(text), len(text))] * behind],
            byte_offsets=[*before, *encoding.byte_offsets, *[(len(data), len(data))] * behind],
        )

    def _warn_of_change(self) -> None:
        if not self._warned:
            self._warned = True
            self.notify(
                "The model's tokenizer changes this text: decode will not give back the same bytes."
            )

    def truncate(self, record: Record, max_tokens: int, *, drop: Side) -> tuple[str, bool]:
        """A text cut to so many tokens, never inside a character, and whether that cut any off.

        What lies behind a tail that is dropped is not read.
        """
        from llmcli.tokenization.chunks import beginning, truncate

        if drop == "tail":
            text = beginning(
                self.tokenizer,
                record.parts,
                max_tokens,
                special=self.special,
                threads=self.threads,
            )
        else:
            text = record.held(f"--truncate {drop}")
        short = truncate(
            self.tokenizer,
            text,
            max_tokens,
            drop=drop,
            special=self.special,
            threads=self.threads,
        )
        return short, short != text

    def split(
        self, text: str, max_tokens: int, *, overlap: int, boundary: Boundary
    ) -> Iterator[Chunk]:
        """A text in chunks of at most so many tokens."""
        from llmcli.tokenization.chunks import split

        return split(
            self.tokenizer,
            text,
            max_tokens,
            overlap=overlap,
            boundary=boundary,
            special=self.special,
            threads=self.threads,
        )

    def compared(self, texts: list[str]) -> TokenizerCount:
        """How many tokens some texts have, to be held beside another tokenizer's."""
        return TokenizerCount(
            model=self.model.name,
            revision=self.model.revision,
            count=sum(piece.count for text in texts for piece in self.pieces([text])),
            bytes=sum(len(text.encode("utf-8")) for text in texts),
            vocab_size=self.tokenizer.vocab_size,
        )

    def beside(self, other: tuple[Tokenizer, ResolvedModel]) -> Encoder:
        """The same with another tokenizer, and nothing around a text."""
        tokenizer, model = other
        return replace(self, tokenizer=tokenizer, model=model, front=[], back=[])


def chunk_record(chunk: Chunk, output: str | None) -> dict[str, Any]:
    """A chunk ready for JSON: its text, or the file that has it."""
    return {
        "index": chunk.index,
        **({"text": chunk.text} if output is None else {"output": output}),
        "count": chunk.count,
        "offsets": (chunk.start, chunk.end),
        "byte_offsets": (chunk.byte_start, chunk.byte_end),
    }


def chunk_name(template: str, index: int) -> str:
    """The name of a chunk's file.

    Raises:
        InvalidInput: the template has no place for the number.
    """
    if not _INDEX.search(template):
        raise InvalidInput(
            f"-o {template} does not say where the chunk's number goes.",
            "Name it such as 'chunk-{index:04}.txt'.",
        )
    return _INDEX.sub(lambda match: f"{index:0{match[1] or 1}}", template)


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _required(token_id: int | None, name: str, option: str) -> int:
    if token_id is None:
        raise InvalidInput(f"The tokenizer names no {name} token.", f"Leave {option} out.")
    return token_id

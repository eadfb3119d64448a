"""Text -> token ids with offsets, and ids -> the exact bytes, over the `tokenizers` library."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Literal

from tokenizers import Encoding as BackendEncoding
from tokenizers import Tokenizer as Backend

from llmcli.errors import CorruptModel, InvalidInput
from llmcli.tokenization.build import build
from llmcli.tokenization.control import control_pieces, without_control_pieces
from llmcli.tokenization.files import (
    is_native_failure,
    named_token,
    one_line,
    read_json,
    repeats_groups,
)
from llmcli.tokenization.panics import quiet_panics
from llmcli.tokenization.spelling import Spelling, piece_bytes, spelling_of
from llmcli.tokenization.stream import check_surrogates

__all__ = ["Encoding", "SpecialTokens", "Tokenizer"]

_MOST_IDS = 1 << 24  # the largest vocabularies have 2 ** 18
_WHOLE = 1 << 19  # characters that are encoded in one call; it takes some 400 bytes for each

SpecialTokens = Literal["text", "allow", "forbid"]


@dataclass(frozen=True, slots=True)
class Encoding:
    """The tokens of a text; the four sequences have one entry for each token.

    Attributes:
        ids: Token ids.
        tokens: The vocabulary's own spelling.
        char_offsets: First character touched and one past the last. Tokens that share a
            character (an emoji over several tokens) overlap here.
        byte_offsets: The same in bytes of UTF-8; these never overlap.
    """

    ids: list[int]
    tokens: list[str]
    char_offsets: list[tuple[int, int]]
    byte_offsets: list[tuple[int, int]]


class Tokenizer:
    """A model's tokenizer.

    Args:
        backend: The library's object.
        folder: Where its files lie (for the ids that begin and end a text).
        named: Texts of bos_token and eos_token, where they are known already.
        rows: Tokens that the model has, where a model is meant: what the files name beyond them
            is not there, and rows without an entry, which pad the embedding, have no text.
        vocab_size: One more than the highest id, where it is known already.
    """

    def __init__(
        self,
        backend: Backend,
        folder: Path,
        named: Mapping[str, str] | None = None,
        rows: int | None = None,
        vocab_size: int | None = None,
    ) -> None:
        self._rows = rows
        if vocab_size is not None and vocab_size <= _MOST_IDS:
            self.vocab_size = vocab_size
        self.backend = backend
        self.folder = folder
        self._named = named or {}
        self._added = {
            token_id: token.content
            for token_id, token in backend.get_added_tokens_decoder().items()
        }
        self._bytes = _ByteTable(self)

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        rows: int | None = None,
        detail: Callable[[str], None] = lambda message: None,
    ) -> Tokenizer:
        """The folder's tokenizer, as transformers makes it; see `llmcli.tokenization.build`."""
        built = build(folder, detail)
        return cls(built.backend, folder, built.named, rows, built.vocab_size)

    @cached_property
    def vocab_size(self) -> int:
        """One more than the highest id (a vocabulary with holes has fewer entries).

        Raises:
            CorruptModel: no model has so many: tables of that size would be made.
        """
        token, highest = max(self.backend.get_vocab().items(), key=lambda item: item[1])
        if highest >= _MOST_IDS:
            raise CorruptModel(
                f"The tokenizer in {self.folder} gives {token!r:.40} the id {highest}, which is "
                "beyond any vocabulary.",
                "Fetch its files again (--refresh), or copy them from the model's source.",
            )
        return highest + 1

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids of control tokens."""
        added = self.backend.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)

    @cached_property
    def bos_id(self) -> int | None:
        """The id that begins a text; None where the model's files name none."""
        return self._end_id("bos")

    @cached_property
    def eos_id(self) -> int | None:
        """The id that ends a text (the first, where there are several); None if unnamed."""
        return self._end_id("eos")

    @property
    def start_id(self) -> int | None:
        """The id that stands before a text where one is asked for: BOS, or EOS if there is none."""
        return self.eos_id if self.bos_id is None else self.bos_id

    @cached_property
    def mask_id(self) -> int | None:
        """The id that stands for a gap; None where the model's files name none."""
        texts = (named_token(self.folder, "mask_token"), "[MASK]", "<mask>")
        ids = [self.backend.token_to_id(text) for text in texts if text is not None]
        return next((each for each in ids if each in self.special_ids), None)

    @cached_property
    def adds_bos(self) -> bool:
        """Whether the tokenizer's own template puts its first token in front of a text."""
        with self._native():
            return self.backend.encode("", add_special_tokens=True).ids[:1] == [self.bos_id]

    @cached_property
    def template(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the tokenizer's own template puts before and behind a text."""
        with self._native():
            plain = self.backend.encode("a", add_special_tokens=False).ids
            whole = self.backend.encode("a", add_special_tokens=True).ids
        for start in range(len(whole) - len(plain) + 1):
            end = start + len(plain)
            if whole[start:end] == plain:
                return tuple(whole[:start]), tuple(whole[end:])
        return (), ()

    @cached_property
    def spelling(self) -> Spelling:
        """How the vocabulary spells bytes."""
        return spelling_of(self.backend)

    def ids(self, text: str, *, special: SpecialTokens = "text") -> list[int]:
        """The token ids of a text; no begin or end token is added.

        Args:
            text: Any text; "" gives [].
            special: What control tokens spelt out in the text are: "text" like any other,
                "allow" control tokens, "forbid" an error.

        Raises:
            InvalidInput: a control token under "forbid".
            InvalidText: a lone surrogate.
        """
        if len(text) > _WHOLE:
            from llmcli.tokenization.large_text import encode_pieces

            pieces = encode_pieces(self, [text], special=special)
            return [token_id for piece in pieces for token_id in piece.ids]
        self.check(text, special=special)
        self.prepare(special)
        return self.encode_batch_fast([text])[0].ids

    def encode(self, text: str, *, special: SpecialTokens = "text") -> Encoding:
        """The tokens of a text with their offsets; arguments and errors as in `ids`.

        Raises:
            InvalidInput: a long text, and a tokenizer that changes what it reads, so that only
                the library knows the offsets: it would need some gigabytes.
        """
        if len(text) > _WHOLE:
            ids = self.ids(text, special=special)
            return Encoding(ids, list(map(self.token_string, ids)), *self._spans(text, ids, None))
        self.check(text, special=special)
        self.prepare(special)
        with self._native():
            result = self.backend.encode(text, add_special_tokens=False)
            if self._holds_control(result):
                result = self._plain.encode(text, add_special_tokens=False)
        spans = self._spans(text, result.ids, result.offsets)
        return Encoding(result.ids, result.tokens, *spans)

    def prepare(self, special: SpecialTokens) -> None:
        """Set what control tokens in a text are, for `encode_fast`."""
        as_text = special == "text"
        if self.backend.encode_special_tokens != as_text:
            self.backend.encode_special_tokens = as_text

    def check(self, text: str, *, special: SpecialTokens = "text", start: int = 0) -> None:
        """Raise unless a text can be encoded.

        Args:
            text: The text.
            special: As in `ids`.
            start: Where the text begins in a longer one, in characters, for the message.

        Raises:
            InvalidInput: a control token under "forbid".
            InvalidText: a lone surrogate.
        """
        if not text.isascii():
            check_surrogates(text, start=start)
        if special == "forbid":
            for token_id in sorted(self.special_ids):
                if (at := text.find(self._added[token_id])) >= 0:
                    raise InvalidInput(
                        f"The text holds the special token {self._added[token_id]!r} at "
                        f"character {start + at}.",
                        "Remove it, or use --special text or --special allow.",
                    )

    def encode_batch_fast(self, texts: list[str]) -> list[BackendEncoding]:
        """Encode without offsets, from any thread; `prepare` and `check` come first."""
        with self._native():
            found = self.backend.encode_batch_fast(texts, add_special_tokens=False)
            return [
                self._plain.encode_batch_fast([text], add_special_tokens=False)[0]
                if self._holds_control(result)
                else result
                for text, result in zip(texts, found, strict=True)
            ]

    @cached_property
    def _control(self) -> frozenset[int]:
        """What a text must not give by itself; byte-level vocabularies cannot."""
        return frozenset() if self.spelling.kind == "byte" else control_pieces(self.backend)

    @cached_property
    def _plain(self) -> Backend:
        return without_control_pieces(self.backend)

    def _holds_control(self, result: BackendEncoding) -> bool:
        """Whether control tokens, which are to be text, were found by the model itself."""
        as_text = bool(self._control) and self.backend.encode_special_tokens
        return as_text and not self._control.isdisjoint(result.ids)

    def token_string(self, token_id: int) -> str:
        """The vocabulary's own spelling of a token.

        Raises:
            InvalidInput: the id is outside the vocabulary.
        """
        piece = self._piece(token_id)
        if piece is None:
            raise InvalidInput(
                f"Token id {token_id} is outside the vocabulary (0 to {self.vocab_size - 1}).",
                "Use ids that this model's tokenizer made.",
            )
        return piece

    def __contains__(self, token_id: int) -> bool:
        """Whether the vocabulary has this id."""
        return self._piece(token_id) is not None

    def _piece(self, token_id: int) -> str | None:
        return self.backend.id_to_token(token_id) if 0 <= token_id < 1 << 32 else None

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes a token stands for; a control token's are its text.

        Raises:
            InvalidInput: the id is outside the vocabulary.
        """
        return self._bytes[token_id]

    def decode_bytes(
        self, ids: Iterable[int], *, skip_special: bool = False, start: bool = True
    ) -> bytes:
        """The bytes the ids stand for (a sequence's bytes need not be valid UTF-8).

        Args:
            ids: Token ids.
            skip_special: Leave out control tokens.
            start: Whether a text begins here; SentencePiece puts a space there, which goes.

        Raises:
            InvalidInput: an id is outside the vocabulary.
        """
        if skip_special:
            special = self.special_ids
            ids = (token_id for token_id in ids if token_id not in special)
        if self.spelling.kind == "other" and self.backend.decoder is not None:
            known = [i for i in ids if self._bytes[i] or i in self]
            with self._native():
                return self.backend.decode(known, skip_special_tokens=False).encode("utf-8")
        data = b"".join(map(self._bytes.__getitem__, ids))
        return data.removeprefix(b" ") if start and self.spelling.prefix_space else data

    def _spans(
        self, text: str, ids: Sequence[int], offsets: list[tuple[int, int]] | None
    ) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Offsets in characters and in bytes.

        Where the tokens' bytes, joined, are the text's, the offsets follow from their lengths.
        Otherwise (a normaliser changed the text, an unknown token) they are the library's.
        """
        data = text.encode("utf-8")
        pieces = [self._bytes[token_id] for token_id in ids]
        if pieces and self.spelling.prefix_space and b"".join(pieces) == b" " + data:
            pieces[0] = pieces[0][1:]
        exact = b"".join(pieces) == data
        if not exact and offsets is None:
            raise InvalidInput(
                f"A text of {len(text)} characters is too long for this tokenizer's offsets.",
                "Give it in parts (--lines), or ask for ids or the count alone.",
            )
        starts = [0, *accumulate(len(char.encode("utf-8")) for char in text)]
        if not exact and offsets is not None:
            return offsets, [(starts[start], starts[end]) for start, end in offsets]
        spans = _running(pieces)
        if len(data) == len(text):
            return spans, spans
        chars = [
            (bisect_right(starts, start) - 1, bisect_left(starts, end)) for start, end in spans
        ]
        return chars, spans

    def _end_id(self, kind: Literal["bos", "eos"]) -> int | None:
        text = named_token(self.folder, f"{kind}_token") or self._named.get(f"{kind}_token")
        found = [] if text is None else [self.backend.token_to_id(text)]
        for name in ("generation_config.json", "config.json"):
            value = read_json(self.folder / name).get(f"{kind}_token_id")
            found += value if isinstance(value, list) else [value]
        found.append(self.backend.token_to_id("<|endoftext|>"))
        ids = (each for each in found if isinstance(each, int) and not isinstance(each, bool))
        rows = self._rows if self._rows is not None else 1 << 32
        return next((each for each in ids if 0 <= each < rows), None)

    @cached_property
    def _has_expressions(self) -> bool:
        """Whether expressions of its file repeat groups: only those run into the engine's limit."""
        parts = (self.backend.normalizer, self.backend.pre_tokenizer)
        return any(repeats_groups(part) for part in parts if part is not None)

    @contextmanager
    def _native(self) -> Iterator[None]:
        """Translate a failure inside the native library (bad vocabularies show only in use)."""
        try:
            with quiet_panics() if self._has_expressions else nullcontext():
                yield
        except BaseException as exc:
            if not is_native_failure(exc):
                raise
            raise CorruptModel(
                f"The tokenizer in {self.folder} fails: {one_line(exc)}.",
                "Fetch the model again (--refresh), or use another model.",
            ) from exc


class _ByteTable(dict[int, bytes]):
    """Token id -> bytes, filled as ids turn up: most runs meet few of them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token_id: int) -> bytes:
        if 0 <= token_id < (self._tokenizer._rows or 0) and token_id not in self._tokenizer:
            return b""
        piece = self._tokenizer.token_string(token_id)
        if token_id in self._tokenizer._added:
            data = self._tokenizer._added[token_id].encode("utf-8")
        else:
            data = piece_bytes(piece, self._tokenizer.spelling)
        self[token_id] = data
        return data


def _running(pieces: Iterable[bytes]) -> list[tuple[int, int]]:
    """Start and end of each piece when they are laid end to end."""
    ends = list(accumulate(map(len, pieces)))
    return list(zip([0, *ends], ends, strict=False))

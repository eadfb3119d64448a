"""From the vocabulary's spelling of a token to the bytes it stands for.

Three spellings are in use. Byte-level BPE (GPT-2 and its heirs) writes every byte as one
printable character. SentencePiece writes a space as ``▁`` and a byte that has no piece of its own
as ``<0xNN>``. WordPiece writes ``##`` in front of what continues a word.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import Tokenizer as Backend

__all__ = ["Spelling", "piece_bytes", "spell_bytes", "spelling_of"]

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_alphabet() -> dict[str, int]:
    """The character of each byte in byte-level BPE, inverted.

    Bytes that print as themselves in Latin-1 keep their character; the other 68 take the
    characters from U+0100 on, in order.
    """
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in set(kept)]
    alphabet = {chr(byte): byte for byte in kept}
    alphabet.update({chr(0x100 + index): byte for index, byte in enumerate(moved)})
    return alphabet


_BYTE_OF = _byte_alphabet()
_LETTER_OF = {byte: char for char, byte in _BYTE_OF.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """How a vocabulary spells bytes.

    Attributes:
        kind: "byte" (byte-level BPE), "sentencepiece", or "other" (WordPiece, word lists), for
            which decoding is the library's and not exact to the byte.
        space: The character that stands for a space ("" where a space is a space).
        byte_fallback: Whether ``<0xNN>`` is a byte.
        prefix_space: Whether decoding drops one space at the very start, because encoding put
            it there.
        continuation: The mark in front of what continues a word ("##"), or "".
    """

    kind: Literal["byte", "sentencepiece", "other"]
    space: str = ""
    byte_fallback: bool = False
    prefix_space: bool = False
    continuation: str = ""

    @property
    def first_space(self) -> bytes:
        """What the first token of a text spells before its first word, and the text has not."""
        return b" " if self.prefix_space or self.continuation else b""


def spelling_of(backend: Backend) -> Spelling:
    """Read the spelling off a tokenizer's decoder (its pre-tokeniser where it has none)."""
    steps = _steps(backend.decoder) or _steps(backend.pre_tokenizer)
    kinds = {str(step["type"]) for step in steps}
    if "ByteLevel" in kinds:
        return Spelling(kind="byte")
    space, prefix_space = "", False
    for step in steps:
        if step["type"] == "Metaspace":
            space = str(step["replacement"])
            prefix_space = step.get("prepend_scheme", "always") != "never"
        elif step["type"] == "Replace" and step["content"] == " ":
            space = str(step["pattern"].get("String", ""))
        elif step["type"] == "Strip" and step["content"] == " ":
            prefix_space = step["start"] > 0
    if space or "ByteFallback" in kinds:
        return Spelling(
            kind="sentencepiece",
            space=space,
            byte_fallback="ByteFallback" in kinds,
            prefix_space=prefix_space,
        )
    continuation = next((str(s["prefix"]) for s in steps if s["type"] == "WordPiece"), "")
    return Spelling(kind="other", continuation=continuation)


def piece_bytes(piece: str, spelling: Spelling) -> bytes:
    """The bytes that a token of the model's own vocabulary stands for.

    Added tokens are spelt as they are; this is for all others.
    """
    if spelling.kind == "byte":
        if all(char in _BYTE_OF for char in piece):
            return bytes(_BYTE_OF[char] for char in piece)
        return piece.encode("utf-8")
    if spelling.kind == "sentencepiece":
        if spelling.byte_fallback and (match := _BYTE_PIECE.fullmatch(piece)):
            return bytes([int(match[1], 16)])
        return (piece.replace(spelling.space, " ") if spelling.space else piece).encode("utf-8")
    if not spelling.continuation:
        return piece.encode("utf-8")
    if piece.startswith(spelling.continuation):
        return piece.removeprefix(spelling.continuation).encode("utf-8")
    return b" " + piece.encode("utf-8")


def spell_bytes(data: bytes) -> str:
    """Bytes as byte-level BPE spells them, one character for each."""
    return data.decode("latin-1").translate(_LETTER_OF)


def _steps(component: Any) -> list[dict[str, Any]]:
    """The steps of a decoder or pre-tokeniser as the library's JSON states them."""
    if component is None:
        return []
    state = json.loads(component.__getstate__())
    for key in ("decoders", "pretokenizers"):
        if key in state:
            return [step for step in state[key] if isinstance(step, dict)]
    return [state]

"""Token ids to the exact bytes they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llmcli.errors import InvalidInput, InvalidText
from llmcli.io.id_records import IdRecord

if TYPE_CHECKING:
    from llmcli.tokenization.tokenizer import Tokenizer

ByteErrors = Literal["keep", "replace", "strict"]

_AT_ONCE = 1 << 16


@dataclass(frozen=True, slots=True)
class DecodedText:
    """What some ids stand for.

    Attributes:
        text: The text; U+FFFD where bytes are no UTF-8.
        data: The bytes.
    """

    text: str
    data: bytes

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; the bytes too where the text does not say them."""
        exact = {} if self.text.encode("utf-8") == self.data else {"bytes": self.data.hex()}
        return {"text": self.text, **exact}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """A tokenizer, and what to do with bytes and tokens that are no text.

    Attributes:
        tokenizer: The tokenizer.
        errors: Bytes that are not UTF-8: as they are, U+FFFD, or an error.
        skip_special: Leave control tokens out.
    """

    tokenizer: Tokenizer
    errors: ByteErrors = "keep"
    skip_special: bool = False

    def text(self, record: IdRecord) -> DecodedText:
        """All that a record's ids stand for.

        Raises:
            InvalidInput: an id outside the vocabulary.
            InvalidText: bytes that are no UTF-8, under ``strict``.
        """
        data = b"".join(self.parts(record))
        try:
            text = data.decode("utf-8", "strict" if self.errors == "strict" else "replace")
        except UnicodeDecodeError as exc:
            raise _not_text(record) from exc
        return DecodedText(text, data)

    def texts(self, record: IdRecord) -> Iterator[str]:
        """The same as text alone, in parts; errors as for :meth:`text`."""
        from llmcli.tokenization.stream import StreamDecoder

        decoder = StreamDecoder(errors="strict" if self.errors == "strict" else "replace")
        try:
            for data in self.parts(record):
                yield decoder.push(data)
            yield decoder.flush()
        except UnicodeDecodeError as exc:
            raise _not_text(record) from exc

    def parts(self, record: IdRecord) -> Iterator[bytes]:
        """The same as bytes, in parts; an id outside the vocabulary is named with its place."""
        tokenizer = self.tokenizer
        # encode puts it there, and the text that went in did not have it.
        front = tokenizer.bos_id if tokenizer.adds_bos else None
        position = 0
        for part in record.parts:
            for start in range(0, len(part), _AT_ONCE):
                ids = part[start : start + _AT_ONCE]
                added = 1 if not position and len(ids) and ids[0] == front else 0
                try:
                    yield tokenizer.decode_bytes(
                        ids[added:], skip_special=self.skip_special, start=not position
                    )
                except InvalidInput as exc:
                    at = next(at for at, token_id in enumerate(ids) if token_id not in tokenizer)
                    raise InvalidInput(
                        f"{record.place}: token id {ids[at]} at position {position + at} is "
                        f"outside the vocabulary (0 to {tokenizer.vocab_size - 1}).",
                        exc.cure,
                    ) from exc
                position += len(ids)


def _not_text(record: IdRecord) -> InvalidText:
    return InvalidText(
        f"{record.place}: the ids do not stand for whole UTF-8 characters.",
        "Pass --errors replace, or --errors keep for the bytes.",
    )

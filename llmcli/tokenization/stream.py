"""UTF-8: text as soon as it is certain, never half a character, never a lone surrogate."""

from __future__ import annotations

import codecs

from llmcli.errors import InvalidText

__all__ = ["StreamDecoder", "check_surrogates"]


class StreamDecoder:
    """Turns bytes that arrive in pieces into text.

    Only an incomplete sequence at the end is held back (at most three bytes). Bytes that can be
    no part of any character become U+FFFD, by the rule of ``bytes.decode(errors="replace")``, so
    the joined pieces equal the decoding of the joined bytes however they were cut.

    Args:
        errors: "replace", or "strict" to raise UnicodeDecodeError instead.
    """

    def __init__(self, *, errors: str = "replace") -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)

    @property
    def pending(self) -> bytes:
        """The incomplete sequence that is held back, at most three bytes."""
        return self._decoder.getstate()[0]

    def push(self, data: bytes) -> str:
        """Take more bytes, give the text that became certain (often "")."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """End the stream: an incomplete sequence becomes U+FFFD; ready for a new stream."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def check_surrogates(text: str, *, start: int = 0) -> None:
    """Raise unless the text, which begins at character ``start``, can be written as UTF-8.

    Raises:
        InvalidText: it holds a lone surrogate; the message gives its place.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise InvalidText(
            f"The text holds a lone surrogate (U+{ord(text[exc.start]):04X}) at character "
            f"{start + exc.start}.",
            "Give text that is valid Unicode.",
        ) from exc

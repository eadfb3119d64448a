"""Incremental UTF-8: text as soon as it is certain, and never half a character."""

from __future__ import annotations

import codecs

__all__ = ["StreamDecoder"]


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

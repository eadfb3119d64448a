"""Stop strings that never leak: text is held back exactly while it may be the start of one."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Finds the first stop string to be completed in text that arrives in pieces.

    However the text is cut into pieces, the same characters come out. Of stop strings that end
    at the same character, the longest counts.

    Args:
        stops: The stop strings, none of them empty.
        keep: Whether the matched one is part of the text.
    """

    def __init__(self, stops: Sequence[str], *, keep: bool = False) -> None:
        self._stops = tuple(stops)
        self._keep = keep
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Take more text, return what is certain; after a match nothing more comes out."""
        if self.matched is not None:
            return ""
        if not self._stops:
            return text
        pending = self._held + text
        found = [(at + len(s), at, s) for s in self._stops if (at := pending.find(s)) >= 0]
        if found:
            end, start, self.matched = min(found)
            self._held = ""
            return pending[: end if self._keep else start]
        keep_from = len(pending) - self._possible_start(pending)
        self._held = pending[keep_from:]
        return pending[:keep_from]

    def flush(self) -> str:
        """Return what is held back: the text ends here, so no stop string is coming."""
        held, self._held = self._held, ""
        return held

    def _possible_start(self, text: str) -> int:
        """The length of the longest end of ``text`` that begins a stop string."""
        longest = min(len(text), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0

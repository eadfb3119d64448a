"""How much of a prompt is read in one step, so that the texts under way do not stall."""

from __future__ import annotations

from collections import defaultdict, deque
from statistics import median

# Where nothing was measured, and at most.
_FIRST = 16
_MOST = 128
# Medians are taken of so many of the latest measurements.
_STEPS = 5
_PIECES = 9


class Pace:
    """Measures steps and chooses pieces of prompts by what they cost.

    A step's results do not depend on how prompts were cut, so that a piece may have the size
    that the clock suggests.

    Args:
        most_times: How many times as long a step with a piece may take as one without.
    """

    def __init__(self, most_times: float) -> None:
        self._share = most_times - 1
        self._plain: dict[int, deque[float]] = {}
        self._costs: dict[bool, deque[float]] = defaultdict(lambda: deque(maxlen=_PIECES))

    def size(self, rows: int, *, scored: bool) -> int:
        """Tokens that a piece may have.

        Args:
            rows: Texts that get a token in the same step.
            scored: Whether the prompt's own tokens are told, which costs more.
        """
        plain, costs = self._plain_seconds(rows), self._costs[scored]
        if plain is None or not costs:
            return _FIRST
        return max(1, min(_MOST, int(self._share * plain / median(costs))))

    def took(self, seconds: float, *, rows: int, read: int, scored: bool) -> None:
        """Note what a step took that gave ``rows`` texts a token and read ``read`` of prompts."""
        if not rows:
            return
        if not read:
            self._plain.setdefault(rows, deque(maxlen=_STEPS)).append(seconds)
            return
        plain = self._plain_seconds(rows)
        if plain is not None:
            # Never nothing: a step that was disturbed says little of the next.
            self._costs[scored].append(max(seconds - plain, plain / _MOST) / read)

    def _plain_seconds(self, rows: int) -> float | None:
        """What a step without a piece takes, of so many rows or the nearest number known."""
        if not self._plain:
            return None
        nearest = min(self._plain, key=lambda known: abs(known - rows))
        return median(self._plain[nearest])

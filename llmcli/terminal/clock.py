"""Where the time of a command went: what ``-v`` prints at its end."""

from __future__ import annotations

import time
from collections.abc import Callable

from llmcli.system import process_age


class Clock:
    """Adds up the steps that work tells of; together they are all the time since the start.

    Args:
        now: Seconds since any moment.
        age: How many of them had passed when this was made.
    """

    def __init__(
        self, now: Callable[[], float] = time.monotonic, age: Callable[[], float] = process_age
    ) -> None:
        self._now = now
        self._spent: dict[str, float] = {}
        self._step, self._since = "starting, with imports", now() - age()

    def begin(self, step: str) -> None:
        """Another step begins."""
        at = self._now()
        self._spent[self._step] = self._spent.get(self._step, 0.0) + at - self._since
        self._step, self._since = step, at

    def lines(self) -> list[str]:
        """The whole, then each step that took a hundredth of a second."""
        self.begin(self._step)
        spent = {step: seconds for step, seconds in self._spent.items() if seconds >= 0.005}
        rest = sum(self._spent.values()) - sum(spent.values())
        rows = [*spent.items(), *([("the rest", rest)] if rest >= 0.005 else [])]
        total = f"{sum(self._spent.values()):.2f} s in all"
        return [total, *(f"  {step}: {seconds:.2f} s" for step, seconds in rows)]

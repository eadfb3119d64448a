"""How many threads to take: what was measured to be fastest, on this model and machine, today.

The number changes no bit of a result, so it can be tried out on the job. A step of a small model
takes longer with two threads than with one, for they wait for each other; on a machine that
others use they wait longer still.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from llmcli.system import usable_processors

# Tokens at once: steps of a text or a few, checks of drafts, and prompts differ too much.
_KINDS = (1, 8, 32)
# Measurements of each number of threads before one is settled on.
_TRIES = 3
# More threads must be so much faster to be worth it.
_GAIN = 0.95
# Steps after which all are measured again: the machine may have become busy, or idle.
_STEPS_SETTLED = 200


class Threads:
    """Chooses a number of threads for each pass.

    Args:
        count: A fixed number; None to measure.

    Attributes:
        latest: The number that the latest pass took.
    """

    def __init__(self, count: int | None = None) -> None:
        self.latest = count or 1
        self._fixed = count
        self._trials: dict[int, _Trial] = {}

    @property
    def most(self) -> int:
        """The number for work that is large whatever the model."""
        return self._fixed or available()[-1]

    @contextmanager
    def timing(self, tokens: int) -> Iterator[int]:
        """The number of threads for a pass over so many tokens, which is timed meanwhile."""
        if self._fixed is not None:
            yield self._fixed
            return
        kind = sum(tokens > limit for limit in _KINDS)
        trial = self._trials.setdefault(kind, _Trial())
        self.latest = threads = trial.next()
        start = time.perf_counter()
        yield threads
        trial.took(threads, (time.perf_counter() - start) / tokens)


class _Trial:
    """Tries numbers of threads in turn, settles on one, and tries again later."""

    def __init__(self) -> None:
        self._choices = available()
        self._times: dict[int, list[float]] = {count: [] for count in self._choices}
        self._best: int | None = self._choices[0] if len(self._choices) == 1 else None
        self._left = 0

    def next(self) -> int:
        if self._best is not None:
            self._left -= 1
            if self._left >= 0 or len(self._choices) == 1:
                return self._best
            self._best = None
            self._times = {count: [] for count in self._choices}
        return min(reversed(self._choices), key=lambda count: len(self._times[count]))

    def took(self, threads: int, seconds: float) -> None:
        if self._best is not None:
            return
        self._times[threads].append(seconds)
        if all(len(times) >= _TRIES for times in self._times.values()):
            best = self._choices[0]
            for count in self._choices[1:]:
                if median(self._times[count]) < _GAIN * median(self._times[best]):
                    best = count
            self._best, self._left = best, _STEPS_SETTLED


def available() -> list[int]:
    """Numbers of threads worth trying: 1, 2, 4 and so on, to as many as this process may use."""
    most = usable_processors()
    return [1 << power for power in range((most - 1).bit_length())] + [most]

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
# One that takes so many times as long as the best one did is not tried further.
_HOPELESS = 1.25
# Seconds of a prompt's pass in which threads that wait for each other do not count; to try fewer
# would cost more than could be found out.
_LONG = 0.1
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
        spent = time.perf_counter() - start
        if kind == len(_KINDS) and threads == self.most and spent > _LONG:
            trial.settle(threads)
        else:
            trial.took(threads, spent / tokens)


class _Trial:
    """Tries numbers of threads in turn, settles on one, and tries again later.

    A number that is far slower than the one settled on is then tried once and no more, for each
    try is a step that somebody waits for.
    """

    def __init__(self) -> None:
        self._choices = available()
        self._settled = len(self._choices) == 1
        self._best: int | None = self._choices[0] if self._settled else None
        self._begin()

    def _begin(self) -> None:
        self._left = 0
        self._times: dict[int, list[float]] = {count: [] for count in self._choices}

    def next(self) -> int:
        if self._settled and self._best is not None:
            self._left -= 1
            if self._left >= 0 or len(self._choices) == 1:
                return self._best
            self._settled = False
            self._begin()
        # The best one first: the others are compared with it.
        order = sorted(self._times, key=lambda count: (count != self._best, -count))
        return min(order, key=lambda count: len(self._times[count]))

    def took(self, threads: int, seconds: float) -> None:
        if self._settled:
            return
        self._times[threads].append(seconds)
        if self._best not in (None, threads) and seconds > _HOPELESS * median(
            self._times[self._best]
        ):
            del self._times[threads]
        if len(self._times) > 1 and any(len(times) < _TRIES for times in self._times.values()):
            return
        counts = sorted(self._times)
        best = counts[0]
        for count in counts[1:]:
            if median(self._times[count]) < _GAIN * median(self._times[best]):
                best = count
        self.settle(best)

    def settle(self, threads: int) -> None:
        """Take a number for some time."""
        self._best, self._left, self._settled = threads, _STEPS_SETTLED, True


def available() -> list[int]:
    """Numbers of threads worth trying: 1, 2, 4 and so on, to as many as this process may use."""
    most = usable_processors()
    return [1 << power for power in range((most - 1).bit_length())] + [most]

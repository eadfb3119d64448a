"""How far a run is, and what follows from that: learning rate and length of the sequences."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from llmcli.training.settings import TrainSettings


@dataclass(kw_only=True)
class Progress:
    """The fraction of a run that is done: of its steps, or of its time if that is further.

    The clock is the wall's: a run that is paused for a while still ends in time, with its
    learning rate brought down.

    Attributes:
        max_steps: Where the run ends at the latest.
        max_time: Seconds after which it ends; None for no bound.
        step: Optimizer steps done.
        elapsed: Seconds so far, earlier parts of an interrupted run among them.
        clock: Seconds from some fixed moment.
    """

    max_steps: int
    max_time: float | None = None
    step: int = 0
    elapsed: float = 0.0
    clock: Callable[[], float] = time.monotonic
    _last: float = field(init=False)

    def __post_init__(self) -> None:
        self._last = self.clock()

    def restart_clock(self) -> None:
        """Do not count the time since the last :meth:`tick`."""
        self._last = self.clock()

    def tick(self) -> float:
        """Count the time since the last call; return all of it."""
        now = self.clock()
        self.elapsed += now - self._last
        self._last = now
        return self.elapsed

    @property
    def fraction(self) -> float:
        """From 0 to 1."""
        by_time = self.elapsed / self.max_time if self.max_time else 0.0
        return min(1.0, max(self.step / self.max_steps, by_time))


def learning_rate_factor(fraction: float, settings: TrainSettings) -> float:
    """Return what the highest learning rate is multiplied with, from 0 to 1.

    It rises in a line over ``warmup``. Then ``cosine`` falls as half a wave to 0 at the end
    (Loshchilov and Hutter, 2017), ``wsd`` stays and falls in a line to 0 over the last ``decay``
    (Hu and others, 2024), ``constant`` stays.
    """
    import math

    if fraction < settings.warmup:
        # Never quite 0, or the first step of a run would be lost.
        return max(fraction / settings.warmup, 1e-3)
    if settings.schedule == "cosine":
        done = (fraction - settings.warmup) / (1 - settings.warmup)
        return 0.5 * (1 + math.cos(math.pi * done))
    if settings.schedule == "wsd":
        return min(1.0, (1 - fraction) / settings.decay)
    return 1.0


def sequence_length(fraction: float, *, grow_from: int | None, context: int) -> int:
    """Return how long the sequences are: ``grow_from``, doubled in equal stages to ``context``.

    >>> [sequence_length(f, grow_from=256, context=1024) for f in (0.0, 0.4, 0.9)]
    [256, 512, 1024]
    """
    lengths = [context]
    while grow_from is not None and lengths[0] % 2 == 0 and lengths[0] // 2 >= grow_from:
        lengths.insert(0, lengths[0] // 2)
    return lengths[min(int(fraction * len(lengths)), len(lengths) - 1)]

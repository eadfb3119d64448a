"""One deadline over everything that a transfer does, whatever it hangs in.

The work runs in a daemon thread: name resolution, TLS and reads cannot be interrupted from
inside. The caller's thread waits for news, draws progress, and leaves at the deadline or at
Ctrl-C at once; the thread ends at its next chunk, or with the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from llmcli.errors import HubUnreachable
from llmcli.reporting import Notify, Progress

T = TypeVar("T")

SLOWEST = 1024.0  # bytes a second


class Cancelled(BaseException):
    """Raised inside the work after nobody waits for it any more."""


class Patience:
    """How long to wait on: a bucket of seconds that time drains and bytes refill.

    It starts with ``first_byte`` seconds and never holds more than ``timeout``. Before the first
    byte of a file, nothing refills it: that is the deadline for the first byte. From then on a
    second comes back for every `SLOWEST` bytes: a silence of ``timeout`` seconds ends the wait,
    and so does, a little later, a server that trickles.
    """

    def __init__(self, timeout: float, first_byte: float) -> None:
        self.timeout = timeout
        self.limit = first_byte
        self._deadline = time.monotonic() + first_byte
        self._paused_at: float | None = None

    def remaining(self) -> float | None:
        """Seconds to wait on, 0 or less where it is over; None while paused."""
        return None if self._paused_at is not None else self._deadline - time.monotonic()

    def refill(self, received: int) -> None:
        """Count bytes of a file."""
        latest = time.monotonic() + self.timeout
        self._deadline = min(self._deadline + received / SLOWEST, latest)

    def restart(self) -> None:
        """Start over: a file is complete."""
        self.limit = self.timeout
        self._deadline = time.monotonic() + self.timeout

    def pause(self) -> None:
        """Stop the clock: the work waits for this machine, not for the network."""
        if self._paused_at is None:
            self._paused_at = time.monotonic()

    def resume(self) -> None:
        """Let the clock run on."""
        if self._paused_at is not None:
            self._deadline += time.monotonic() - self._paused_at
            self._paused_at = None


class Channel(Generic[T]):
    """What the work tells the thread that waits for it."""

    def __init__(self) -> None:
        self.news: SimpleQueue[Callable[[Patience], None]] = SimpleQueue()
        self.result: T | None = None
        self.error: BaseException | None = None
        self.done = False
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Let the work end at its next step."""
        self._cancelled.set()

    def check(self) -> None:
        """End here if nobody waits any more."""
        if self._cancelled.is_set():
            raise Cancelled

    def wait(self, seconds: float) -> None:
        """Sleep, unless and until nobody waits any more."""
        if self._cancelled.wait(seconds):
            raise Cancelled

    def finish(self, *, result: T | None = None, error: BaseException | None = None) -> None:
        """Hand over how it ended."""
        self.result, self.error = result, error
        self.news.put(lambda patience: setattr(self, "done", True))


class Reporter:
    """The work's side of a channel: bytes, pauses, sentences for the user."""

    def __init__(
        self, channel: Channel[object], *, progress: Progress | None, notify: Notify
    ) -> None:
        self.channel = channel
        self._progress = progress
        self._notify = notify

    def check(self) -> None:
        """End here if nobody waits any more."""
        self.channel.check()

    def wait(self, seconds: float) -> None:
        """Sleep, unless and until nobody waits any more."""
        self.channel.wait(seconds)

    def received(self, name: str, new: int, done: int, total: int | None) -> None:
        """Say that ``new`` bytes came, so that ``done`` of ``total`` are there."""
        self.channel.check()

        def apply(patience: Patience) -> None:
            patience.refill(new)
            if self._progress is not None:
                self._progress(name, done, total)

        self.channel.news.put(apply)

    def complete(self) -> None:
        """Say that a file is complete."""
        self.channel.news.put(Patience.restart)

    def pause(self) -> None:
        """Say that the network is not waited for."""
        self.channel.news.put(Patience.pause)

    def resume(self) -> None:
        """Say that the network is waited for again."""
        self.channel.news.put(Patience.resume)

    def tell(self, message: str) -> None:
        """Say a sentence to the user."""
        self.channel.news.put(lambda patience: self._notify(message))


def supervise(
    work: Callable[[Reporter], T],
    *,
    timeout: float,
    first_byte: float,
    where: str,
    progress: Progress | None,
    notify: Notify,
) -> T:
    """Run ``work`` in a thread of its own and wait for it, within `Patience`.

    Args:
        work: Gets a `Reporter`; what it raises is raised here.
        timeout: The longest silence in seconds.
        first_byte: Seconds to the first byte of a file.
        where: What is waited for, for the message.
        progress: Called in this thread.
        notify: Called in this thread.

    Raises:
        HubUnreachable: The time is over.
    """
    channel: Channel[T] = Channel()
    reporter = Reporter(channel, progress=progress, notify=notify)  # type: ignore[arg-type]

    def run() -> None:
        try:
            channel.finish(result=work(reporter))
        except BaseException as error:  # whatever it is, it belongs to the thread that waits
            channel.finish(error=error)

    patience = Patience(timeout, first_byte)
    threading.Thread(target=run, name="llmcli-download", daemon=True).start()
    try:
        while not channel.done:
            _next_news(channel, patience, where)(patience)
    finally:
        channel.cancel()
    if channel.error is not None:
        raise channel.error
    return channel.result  # type: ignore[return-value]


def _next_news(channel: Channel[T], patience: Patience, where: str) -> Callable[[Patience], None]:
    remaining = patience.remaining()
    try:
        if remaining is None:
            return channel.news.get()
        if remaining > 0:
            return channel.news.get(timeout=remaining)
        return channel.news.get_nowait()
    except Empty:
        raise HubUnreachable(
            f"{where} sends nothing, or too slowly: gave up after {patience.limit:g} seconds.",
            "Check the network, give more time with --timeout, or use a model that is on this "
            "machine (llmcli models list).",
        ) from None

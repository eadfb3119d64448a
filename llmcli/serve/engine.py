"""The engine's thread: it alone touches weights and slots, and hands over what came of a step.

The event loop submits jobs and cancels them; the thread steps the scheduler and tells the loop
once a step what came of all sequences. Longer work on the weights (scoring) takes turns with the
steps on the same thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

from llmcli.engine.pace import Pace
from llmcli.engine.params import TokenEvent
from llmcli.engine.prefix_cache import PrefixCache
from llmcli.engine.prompt_scores import PromptToken
from llmcli.engine.scheduler import Handle, Request, Scheduler
from llmcli.errors import InvalidInput, NumericalError

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel

T = TypeVar("T")

# How many times as long as another a step may take in which a prompt is read on.
_MOST_TIMES = 1.75
# How often an engine that has nothing to do shows that it is alive.
_TICK_SECONDS = 1.0


class QueueFull(Exception):
    """Raised where as many requests wait as may."""


class EngineDied(Exception):
    """Raised to whoever waits for an engine that failed."""


class ServerEnds(Exception):
    """Raised to whoever still waits when the server's time is over."""


class ClientGone(Exception):
    """Raised where whoever asked has gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What came of one sequence of a job.

    Attributes:
        place: Which of the job's sequences.
        prompt: The prompt's tokens, where they were asked for; with the first news.
        event: A step of it.
        error: Why it cannot go on; no news comes after it.
    """

    place: int
    prompt: tuple[PromptToken, ...] = ()
    event: TokenEvent | None = None
    error: InvalidInput | NumericalError | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """Sequences that belong together, as one client asked for them.

    Attributes:
        requests: The sequences.
        stream: Whether each step is handed over; else all news come at once, at the end.
        submitted: When it came, by `time.perf_counter`.
        started: When its first sequence got a slot.
        first_token: When its first token was there.
        shared_tokens: Prompt tokens that were not read anew, by sequence.
    """

    requests: Sequence[Request]
    stream: bool
    submitted: float = 0.0
    started: float | None = None
    first_token: float | None = None
    shared_tokens: dict[int, int] = field(default_factory=dict)
    _came: asyncio.Event = field(default_factory=asyncio.Event)
    _news: list[News] = field(default_factory=list)
    _end: Exception | None = None
    _begun: int = 0
    _left: int = 0
    _held: list[News] = field(default_factory=list)
    _handles: set[Handle] = field(default_factory=set)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that were not read anew, of all sequences."""
        return sum(self.shared_tokens.values())

    async def news(self) -> list[News]:
        """Wait for what came since the last call.

        Raises:
            EngineDied: nothing will come any more.
            ClientGone: nobody waits for it.
            ServerEnds: the server's time is over.
        """
        while not self._news:
            if self._end is not None:
                raise self._end
            self._came.clear()
            await self._came.wait()
        found, self._news = self._news, []
        return found

    def tell(self, news: Sequence[News]) -> None:
        """Give whoever waits some news."""
        if self._end is None:
            self._news += news
            self._came.set()

    def end(self, reason: Exception) -> None:
        """Say that no news will come after those that came already."""
        self._end = reason
        self._came.set()

    def abandon(self) -> None:
        """Say that nobody reads the answer any more, nor what is left of it."""
        self._news.clear()
        self.end(ClientGone())


class Engine:
    """Runs a model's sequences on a thread of its own.

    Args:
        model: The model; loaded by :meth:`start` where it is not yet.
        slots: How many sequences are under way at once.
        queue: How many requests may wait for a slot.
        cache_bytes: For what finished sequences have read; 0 to keep nothing of it.

    Attributes:
        cache: What was read before; None where nothing is kept.
        failure: Why the thread ended, if it failed.
        last_tick: When the thread last showed that it lives, by `time.monotonic`.
    """

    def __init__(
        self, model: LanguageModel, *, slots: int, queue: int, cache_bytes: int = 0
    ) -> None:
        self.model = model
        self._cache_bytes = cache_bytes
        self.cache: PrefixCache | None = None
        self.slots = slots
        self.failure: BaseException | None = None
        self.last_tick = time.monotonic()
        self._limit = queue
        self._scheduler: Scheduler | None = None
        self._orders: deque[Callable[[], None]] = deque()
        self._wake = Event()
        self._stopping = False
        self._open: set[Job] = set()  # the loop's
        self._jobs: deque[Job] = deque()  # the thread's, as all below
        self._owners: dict[Handle, tuple[Job, int]] = {}
        self._works: deque[tuple[Generator[None, None, Any], Future[Any]]] = deque()
        self._pool = ThreadPoolExecutor(1, "engine")

    # -- the event loop's side ---------------------------------------------------------------

    async def start(self, on_death: Callable[[], None]) -> None:
        """Load the model on the thread, and begin.

        Args:
            on_death: Called on the event loop when the thread failed.

        Raises:
            LlmcliError: the model cannot be loaded.
        """
        self._loop = asyncio.get_running_loop()
        await self._loop.run_in_executor(self._pool, self._load)
        running = self._pool.submit(self._run)
        running.add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(self._ended, done, on_death)
        )

    @property
    def busy(self) -> bool:
        """Whether anybody waits for an answer."""
        return bool(self._open)

    @property
    def waiting(self) -> int:
        """How many requests wait for their first slot."""
        return sum(job.started is None for job in self._open)

    @property
    def running(self) -> int:
        """How many sequences have a slot."""
        return len(self._owners)

    def submit(self, job: Job) -> None:
        """Begin a job.

        Raises:
            QueueFull: as many wait as may.
            EngineDied: the thread has failed.
        """
        if self.failure is not None:
            raise EngineDied
        if self.waiting >= self._limit + max(0, self.slots - self.running):
            raise QueueFull
        job.submitted = time.perf_counter()
        job._left = len(job.requests)
        self._open.add(job)
        self._order(partial(self._jobs.append, job))

    def done_with(self, job: Job) -> None:
        """Let go of a job; what is under way of it is cancelled within a step."""
        if job in self._open:
            self._open.remove(job)
            self._order(partial(self._cancel, job))

    async def work(self, steps: Generator[None, None, T]) -> T:
        """Have something done on the thread, a step of it between two steps of the scheduler.

        Raises:
            EngineDied: the thread has failed.
            QueueFull: as much work waits as may.
            LlmcliError: or whatever else the work raises.
        """
        if self.failure is not None:
            raise EngineDied
        if len(self._works) >= self._limit + 1:
            raise QueueFull
        promise: Future[T] = Future()
        self._order(partial(self._works.append, (steps, promise)))
        return await asyncio.wrap_future(promise)

    def cut_off(self) -> None:
        """End what is under way, and say so to whoever waits for it."""
        for job in list(self._open):
            self.done_with(job)
            job.end(ServerEnds())

    def stop(self) -> None:
        """End the thread after its step; whoever still waits is told that nothing comes."""
        self._stopping = True
        self._wake.set()
        self._pool.shutdown(wait=True)

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        self._wake.set()

    def _ended(self, done: Future[None], on_death: Callable[[], None]) -> None:
        self.failure = done.exception()
        while self._orders:
            self._orders.popleft()()
        for job in self._open:
            job.end(EngineDied())
        for _, promise in self._works:
            if promise.set_running_or_notify_cancel():
                promise.set_exception(EngineDied())
        self._works.clear()
        if self.failure is not None:
            on_death()

    def _deliver(self, batch: Sequence[tuple[Job, list[News]]]) -> None:
        for job, news in batch:
            job.tell(news)

    # -- the thread's side -------------------------------------------------------------------

    def _load(self) -> None:
        model = self.model
        self.n_positions = model.n_positions
        self.measuring = model.for_another_thread()
        self.decoder = model.decoder()
        blocks = self.decoder.blocks
        if blocks is not None:  # of no size, it keeps nothing: neither do slots
            self.cache = PrefixCache(blocks, self._cache_bytes)
        self._scheduler = Scheduler(
            self.decoder,
            token_bytes=model.token_bytes,
            eos_ids=model.eos_ids,
            slots=self.slots,
            cache=self.cache,
            scoring=self.decoder,
            pace=Pace(_MOST_TIMES),
        )

    def _run(self) -> None:
        scheduler = self._scheduler
        assert scheduler is not None  # loaded before
        while not self._stopping:
            self._wake.clear()
            while self._orders:
                self._orders.popleft()()
            self._feed(scheduler)
            if scheduler.busy:
                self._tell(scheduler.step())
            if self._works:
                self._work_a_step()
            elif not scheduler.busy:
                self._wake.wait(_TICK_SECONDS)
            self.last_tick = time.monotonic()
        scheduler.close()

    def _feed(self, scheduler: Scheduler) -> None:
        """Give free slots to jobs in turn, a sequence each."""
        while self._jobs and scheduler.free:
            job = self._jobs.popleft()
            place = job._begun
            handle = scheduler.submit(job.requests[place])
            self._owners[handle] = job, place
            job._handles.add(handle)
            job._begun += 1
            if job.started is None:
                job.started = time.perf_counter()
            if job._begun < len(job.requests):
                self._jobs.append(job)

    def _cancel(self, job: Job) -> None:
        if job in self._jobs:
            self._jobs.remove(job)
        for handle in job._handles:
            self._owners.pop(handle, None)
            if self._scheduler is not None:
                self._scheduler.cancel(handle)
        job._handles.clear()

    def _tell(self, handles: Sequence[Handle]) -> None:
        """Hand over all that came of a step, at once."""
        ready: dict[Job, list[News]] = {}
        for handle in handles:
            if handle not in self._owners:  # cancelled
                continue
            job, place = self._owners[handle]
            self._note(job, place, handle)
            if handle.finished:
                del self._owners[handle]
                job._handles.discard(handle)
                job._left -= 1
            if job.stream or not job._left:
                ready[job] = job._held
        for job in ready:
            job._held = []
        if ready:
            self._loop.call_soon_threadsafe(self._deliver, list(ready.items()))

    def _note(self, job: Job, place: int, handle: Handle) -> None:
        if job.first_token is None:
            job.first_token = time.perf_counter()
        if handle.prompt_tokens:
            job._held.append(News(place=place, prompt=tuple(handle.prompt_tokens)))
            handle.prompt_tokens.clear()
        job.shared_tokens.setdefault(place, handle.shared_tokens)
        while handle.events:
            job._held.append(News(place=place, event=handle.events.popleft()))
        if handle.error is not None:
            job._held.append(News(place=place, error=handle.error))

    def _work_a_step(self) -> None:
        steps, promise = self._works.popleft()
        if promise.cancelled():
            steps.close()
            return
        try:
            next(steps)
        except StopIteration as end:
            if promise.set_running_or_notify_cancel():
                promise.set_result(end.value)
        except BaseException as exc:  # as an executor does: whoever waits for the work gets it
            if promise.set_running_or_notify_cancel():
                promise.set_exception(exc)
        else:
            self._works.append((steps, promise))

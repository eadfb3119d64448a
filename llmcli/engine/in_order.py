"""Sequences in the order in which they were asked for, though they are made side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from llmcli.engine.params import SamplingParams, TokenEvent
from llmcli.engine.scheduler import Handle, Request, Scheduler, SequenceError
from llmcli.engine.transcript import Prompt


def in_order(
    scheduler: Scheduler,
    requests: Iterator[Request | Handle | None],
    should_stop: Callable[[], bool] = bool,
) -> Iterator[tuple[Handle, TokenEvent | SequenceError]]:
    """Run sequences and tell what comes of them, all of one before the next's.

    Args:
        scheduler: What decodes; it has nothing else to do.
        requests: Taken as there is room; a finished handle is passed on in its place. None says
            that the next one must be waited for: what is under way is brought to its end first.
        should_stop: Asked once a step; true ends what is under way as "interrupted", and
            nothing is begun after it.

    Yields:
        A sequence, and its next event; or, as its last, why it cannot go on.
    """
    pending: deque[Handle] = deque()
    begun = stopped = exhausted = waiting = False

    def wanted() -> bool:
        """Whether another sequence should be begun now."""
        if exhausted or waiting or (stop and begun) or not scheduler.free:
            return False
        # What is finished out of turn is held back; what can be told is told first.
        return len(pending) < scheduler.most_ahead and not (pending and pending[0].finished)

    while True:
        stop = should_stop()
        while wanted():
            begun = True
            request = next(requests, _END)
            if isinstance(request, Request):
                pending.append(scheduler.submit(request))
            elif isinstance(request, Handle):
                pending.append(request)
            else:
                exhausted, waiting = request is _END, request is None
        if stop and not stopped:
            stopped = exhausted = True
            for handle in pending:
                scheduler.cancel(handle)
        if scheduler.busy:
            scheduler.step()
        elif exhausted and not pending:
            return
        else:
            waiting = False
        while pending and (pending[0].events or pending[0].finished):
            handle = pending[0]
            while handle.events:
                yield handle, handle.events.popleft()
            if not handle.finished:
                break
            pending.popleft()
            if handle.error is not None:
                yield handle, handle.error


_END: object = object()


def refused(record: int, params: SamplingParams, error: SequenceError) -> Handle:
    """A handle for a record that is told to be wrong before anything is made of it."""
    request = Request(prompt=Prompt(ids=()), params=params, record=record)
    return Handle(request, error=error, finished=True)

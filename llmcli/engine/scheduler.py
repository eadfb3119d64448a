"""The decoding loop: sequences in, streams of TokenEvents out. It never prints.

One loop for one prompt, a batch and a server. Sequences wait in a queue, take a slot of the
decoder when one is free, have their prompts read a piece at a time, and are then decoded
together, a token each a step. A sequence's text depends on the model, its own settings, its seed
and which record it is; not on what else is under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from llmcli.engine.choosing import choose_all
from llmcli.engine.decoder import Decoder, Floats
from llmcli.engine.params import DraftStats, SamplingParams, TokenEvent
from llmcli.engine.sampling import uniform
from llmcli.engine.speculative import Draft, Speculation
from llmcli.engine.transcript import Chosen, Prompt, Transcript
from llmcli.errors import InvalidInput, NumericalError

SequenceError = InvalidInput | NumericalError
"""What can be wrong with one sequence while the others are well."""

# Prompt tokens that are read between two steps of what is being decoded, and where nothing is.
PIECE = 128
ALONE = 512
# How many sequences a slot may finish before the oldest one is finished.
_AHEAD = 64
# A prefix that is shorter is read again rather than copied.
_WORTH_COPYING = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A sequence that is to be made.

    Attributes:
        prompt: What it continues.
        params: Settings of its own; ``num_return_sequences`` counts for nothing here.
        record: Which record of the whole job the prompt is; it goes into the random numbers.
        index: Which of the record's sequences this is; it goes there too.
    """

    prompt: Prompt
    params: SamplingParams
    record: int = 0
    index: int = 0


@dataclass(slots=True, eq=False)
class Handle:
    """A sequence in the scheduler's hands.

    Attributes:
        request: What was asked for.
        events: What came of it and was not taken yet, oldest first.
        error: Why it cannot go on.
        finished: Whether nothing more will come.
    """

    request: Request
    events: deque[TokenEvent] = field(default_factory=deque)
    error: SequenceError | None = None
    finished: bool = False


class Scheduler:
    """Decodes sequences together over a decoder's slots.

    Nothing here waits or has threads: whoever owns it calls :meth:`step` while
    :attr:`busy`.

    Args:
        decoder: The model.
        token_bytes: The exact bytes of a token.
        eos_ids: Tokens that end a text.
        slots: How many sequences are under way at once.
        draft: Proposes tokens; only for one slot.
        draft_stats: Counts what it proposed.
        share_prefixes: Whether a text takes over what another one with the same beginning has
            read; None where that changes no bit.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        token_bytes: Callable[[int], bytes],
        eos_ids: Collection[int] = (),
        slots: int = 1,
        draft: Draft | None = None,
        draft_stats: DraftStats | None = None,
        share_prefixes: bool | None = None,
    ) -> None:
        self._decoder = decoder
        exact = decoder.rows_alike != 1
        self._share_prefixes = exact if share_prefixes is None else share_prefixes
        self._token_bytes = token_bytes
        self._eos_ids = frozenset(eos_ids)
        self._slots = slots
        self._draft = draft
        self._draft_stats = draft_stats or DraftStats()
        self._waiting: deque[Handle] = deque()
        self._running: list[_Running] = []
        self._idle: deque[_Read] = deque()
        self._cancelled: set[Handle] = set()

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._waiting or self._running)

    @property
    def free(self) -> int:
        """How many sequences could be taken up at once."""
        return max(0, self._slots - len(self._running) - len(self._waiting))

    @property
    def most_ahead(self) -> int:
        """How many sequences may be begun before the oldest of them is finished."""
        return _AHEAD * self._slots

    def submit(self, request: Request) -> Handle:
        """Put a sequence at the end of the queue."""
        handle = Handle(request)
        self._waiting.append(handle)
        return handle

    def cancel(self, handle: Handle) -> None:
        """End a sequence as "interrupted" at the next step."""
        if not handle.finished:
            self._cancelled.add(handle)

    def step(self) -> list[Handle]:
        """Take every sequence a token further.

        Returns:
            The sequences that something came of, in the order in which they were begun.
        """
        told = self._cancel()
        self._admit()
        self._read_a_piece()
        self._advance()
        return told + self._choose()

    def close(self) -> None:
        """Give all slots back; what is under way is dropped."""
        for read in self._reads():
            self._decoder.close(read.slot)
        self._idle.clear()
        self._running.clear()
        self._waiting.clear()

    # -- a step's parts ----------------------------------------------------------------------

    def _cancel(self) -> list[Handle]:
        told = []
        for handle in self._cancelled:
            running = next((each for each in self._running if each.handle is handle), None)
            if running is not None:
                handle.events.append(running.transcript.interrupt())
                self._finish(running)
            elif handle in self._waiting:
                self._waiting.remove(handle)
                handle.events.append(self._transcript(handle.request).interrupt())
                handle.finished = True
            told.append(handle)
        self._cancelled.clear()
        return told

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._slots:
            if self._will_be_read(self._waiting[0].request.prompt.ids):
                return
            handle = self._waiting.popleft()
            transcript = self._transcript(handle.request)
            read = self._slot_for(handle.request.prompt.ids)
            running = _Running(handle, transcript, read)
            if self._draft is not None:
                running.ahead = Speculation(
                    self._decoder,
                    read.slot,
                    self._draft,
                    handle.request.params,
                    running.uniform,
                    self._draft_stats,
                )
            running.logits = read.logits
            running.unread = read.logits is None
            self._running.append(running)

    def _will_be_read(self, prompt: Sequence[int]) -> bool:
        """Whether much of a prompt is just being read for another sequence."""
        contexts = [each.transcript.context for each in self._running if each.unread]
        if list(prompt) in contexts:
            return True
        now = max((_common(read.tokens, prompt) for read in self._reads()), default=0)
        soon = max((_common(context, prompt) for context in contexts), default=0)
        return soon >= now + _WORTH_COPYING

    def _reads(self) -> list[_Read]:
        return [*self._idle, *(running.read for running in self._running)]

    def _slot_for(self, prompt: Sequence[int]) -> _Read:
        """A slot that holds as much of a prompt as some slot has read already."""
        source = max(self._reads(), key=lambda read: _common(read.tokens, prompt), default=None)
        shared = 0 if source is None else _common(source.tokens, prompt)
        if source is not None and shared == len(prompt) == source.prompt_length:
            return self._same_prompt(source)
        # Logits after the last token come of reading it.
        shared = min(shared, len(prompt) - 1)
        read = _Read(self._decoder.open())
        if source is not None and shared >= _WORTH_COPYING and self._share_prefixes:
            kept = self._decoder.copy(source.slot, read.slot, shared)
            read.tokens = list(prompt[:kept])
        self._trim(self._slots - len(self._running) - 1)
        return read

    def _same_prompt(self, source: _Read) -> _Read:
        """A slot after a prompt that another one has read just so."""
        length = source.prompt_length
        if source in self._idle:
            self._idle.remove(source)
            self._decoder.truncate(source.slot, length)
            source.tokens = source.tokens[:length]
            return source
        slot = self._decoder.open()
        if self._decoder.copy(source.slot, slot, length) == length:
            return _Read(slot, source.tokens[:length], length, source.logits)
        self._decoder.close(slot)
        return _Read(self._decoder.open())

    def _trim(self, count: int) -> None:
        """Keep so many slots that nobody uses, the latest."""
        while len(self._idle) > max(count, 0):
            self._decoder.close(self._idle.popleft().slot)

    def _read_a_piece(self) -> None:
        """Read on in the oldest prompt that is not read yet."""
        running = next((each for each in self._running if each.unread), None)
        if running is None:
            return
        read, context = running.read, running.transcript.context
        start, end = len(read.tokens), None
        if self._decoder.rows_alike != 1:
            # Cut at multiples of the size, wherever a copied prefix ended.
            size = ALONE if all(each.unread for each in self._running) else PIECE
            end = (start // size + 1) * size
        piece = context[start:end]
        logits = self._decoder.append([(read.slot, piece)], prompt=True)
        read.tokens += piece
        if len(read.tokens) == len(context):
            running.unread, running.logits = False, logits[0]
            if not running.transcript.history.generated_count:
                read.logits, read.prompt_length = logits[0], len(context)

    def _advance(self) -> None:
        """Get logits after the tokens that were chosen last."""
        plain = []
        for running in self._running:
            if running.unread or running.logits is not None:
                continue
            if running.ahead is None:
                plain.append(running)
                continue
            transcript = running.transcript
            running.logits = running.ahead.advance(transcript.context, transcript.tokens_left)
            running.read.tokens.append(transcript.context[-1])
        alike = self._decoder.rows_alike or max(len(plain), 1)
        for first in range(0, len(plain), alike):
            group = plain[first : first + alike]
            tokens = [(each.read.slot, [each.transcript.context[-1]]) for each in group]
            for running, logits in zip(group, self._decoder.append(tokens), strict=True):
                running.logits = logits
                running.read.tokens.append(running.transcript.context[-1])

    def _choose(self) -> list[Handle]:
        """Choose a token where there are logits; returns the sequences that got one."""
        ready = [(each, each.logits) for each in self._running if each.logits is not None]
        chosen = choose_all(
            [(logits, running.transcript, running.uniform) for running, logits in ready],
            threads=self._decoder.threads,
        )
        for (running, _), choice in zip(ready, chosen, strict=True):
            running.logits = None
            self._take(running, choice)
        return [running.handle for running, _ in ready]

    def _take(self, running: _Running, choice: Chosen | SequenceError) -> None:
        handle = running.handle
        if not isinstance(choice, Chosen):
            handle.error = choice
            self._finish(running)
            return
        handle.events.append(running.transcript.take(choice))
        if running.transcript.finish_reason is not None:
            self._finish(running)
        elif len(running.transcript.context) > self._decoder.n_positions:
            # A full context slides: its newer half is read as if it were a prompt.
            running.transcript.slide()
            if running.ahead is not None:
                running.ahead.forget()
            self._decoder.truncate(running.read.slot, 0)
            running.read.tokens, running.read.prompt_length = [], 0
            running.unread = True

    def _finish(self, running: _Running) -> None:
        running.handle.finished = True
        self._running.remove(running)
        if running.ahead is not None:  # it may have read further than the text goes
            running.ahead.forget()
            self._decoder.truncate(running.read.slot, len(running.read.tokens))
        self._idle.append(running.read)

    def _transcript(self, request: Request) -> Transcript:
        return Transcript(
            request.prompt,
            request.params,
            n_positions=self._decoder.n_positions,
            token_bytes=self._token_bytes,
            eos_ids=self._eos_ids,
            index=request.index,
        )


@dataclass(slots=True, eq=False)
class _Read:
    """A slot and the tokens that it has read.

    Attributes:
        slot: Its number.
        tokens: What it holds.
        prompt_length: How many of them were a whole prompt; 0 until one was read.
        logits: Those after that prompt, [vocab].
    """

    slot: int
    tokens: list[int] = field(default_factory=list)
    prompt_length: int = 0
    logits: Floats | None = None


@dataclass(slots=True, eq=False)
class _Running:
    """A sequence that has a slot.

    Attributes:
        unread: Whether some of its context is still to be read, as a prompt is.
        logits: Those after the context, [vocab]; None while its last token is not read.
    """

    handle: Handle
    transcript: Transcript
    read: _Read
    ahead: Speculation | None = None
    unread: bool = True
    logits: Floats | None = None

    def uniform(self, position: int) -> float:
        """The random number that a token of this sequence is drawn with."""
        request = self.handle.request
        return uniform(request.params.seed or 0, request.record, request.index, position)


def _common(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    pairs = zip(ours, theirs, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


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

"""The decoding loop: sequences in, streams of TokenEvents out. It never prints.

One loop for one prompt, a batch and a server. Sequences wait in a queue, take a slot of the
decoder when one is free, have their prompts read a piece at a time, and are then decoded
together, a token each a step. A sequence's text depends on the model, its own settings, its seed
and which record it is; not on what else is under way.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from llmcli.engine.choosing import choose_all
from llmcli.engine.decoder import Decoder, Floats, ScoringDecoder
from llmcli.engine.pace import Pace
from llmcli.engine.params import DraftStats, SamplingParams, TokenEvent
from llmcli.engine.prefix_cache import PrefixCache
from llmcli.engine.prefixes import WORTH_COPYING, Prefixes, Read, common
from llmcli.engine.prompt_scores import PromptToken, score_prompt
from llmcli.engine.sampling import uniform
from llmcli.engine.speculative import Draft, Speculation
from llmcli.engine.transcript import Chosen, Prompt, Transcript
from llmcli.errors import InvalidInput, NumericalError

SequenceError = InvalidInput | NumericalError
"""What can be wrong with one sequence while the others are well."""

# Prompt tokens that are read in a step in which others are decoded, where no pace is kept, and
# in one in which none is.
PIECE = 64
ALONE = 512
# Blocks of finished texts that are copied to the cache in a step in which others go on.
_BLOCKS_A_STEP = 1
# How many sequences a slot may finish before the oldest one is finished.
_AHEAD = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A sequence that is to be made.

    Attributes:
        prompt: What it continues.
        params: Settings of its own; ``num_return_sequences`` counts for nothing here.
        record: Which record of the whole job the prompt is; it goes into the random numbers.
        index: Which of the record's sequences this is; it goes there too.
        prompt_logprobs: With a number, the prompt's own tokens are told with their
            log-probabilities and so many of the likeliest in their places.
        prompt_only: Whether nothing is to follow the prompt.
        eos_ids: Tokens that end this text beside those that end all.
    """

    prompt: Prompt
    params: SamplingParams
    record: int = 0
    index: int = 0
    prompt_logprobs: int | None = None
    prompt_only: bool = False
    eos_ids: tuple[int, ...] = ()


@dataclass(slots=True, eq=False)
class Handle:
    """A sequence in the scheduler's hands.

    Attributes:
        request: What was asked for.
        events: What came of it and was not taken yet, oldest first.
        error: Why it cannot go on.
        finished: Whether nothing more will come.
        prompt_tokens: The prompt's tokens, where they were asked for; all of them before the
            first event.
        shared_tokens: How many of the prompt's tokens were not read for this sequence.
    """

    request: Request
    events: deque[TokenEvent] = field(default_factory=deque)
    error: SequenceError | None = None
    finished: bool = False
    prompt_tokens: list[PromptToken] = field(default_factory=list)
    shared_tokens: int = 0


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
        cache: Keeps what finished sequences have read, in bounded memory instead of slots.
        scoring: The same decoder, where prompts' own tokens can be asked for.
        pace: Chooses how much of a prompt is read in a step in which others get a token.
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
        cache: PrefixCache | None = None,
        scoring: ScoringDecoder | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._decoder = decoder
        self._pace = pace
        self._scoring = scoring
        exact = decoder.rows_alike != 1
        share = exact if share_prefixes is None else share_prefixes
        self._prefixes = Prefixes(decoder, share=share, cache=cache)
        self._token_bytes = token_bytes
        self._eos_ids = frozenset(eos_ids)
        self._slots = slots
        self._draft = draft
        self._draft_stats = draft_stats or DraftStats()
        self._waiting: deque[Handle] = deque()
        self._running: list[_Running] = []
        self._cancelled: set[Handle] = set()

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._waiting or self._running or self._prefixes.unkept)

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
        self._prefixes.tidy(_BLOCKS_A_STEP if self._running else None)
        self._admit()
        told += self._run_model()
        return told + self._choose()

    def close(self) -> None:
        """Give all slots back; what is under way is dropped."""
        for read in self._used():
            self._decoder.close(read.slot)
        self._prefixes.close()
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
            request = self._waiting[0].request
            reads_all = request.prompt_logprobs is not None
            if not reads_all and self._will_be_read(request.prompt.ids):
                return
            handle = self._waiting.popleft()
            transcript = self._transcript(request)
            read = self._read_for(request.prompt.ids, reads_all=reads_all)
            running = _Running(handle, transcript, read)
            handle.shared_tokens = len(read.tokens)
            if self._draft is not None:
                running.ahead = Speculation(
                    self._decoder,
                    read.slot,
                    self._draft,
                    handle.request.params,
                    running.uniform,
                    self._draft_stats,
                    constraint=transcript.constraint,
                )
            running.logits = read.logits
            running.unread = read.logits is None
            self._running.append(running)

    def _will_be_read(self, prompt: Sequence[int]) -> bool:
        """Whether much of a prompt is just being read for another sequence."""
        contexts = [each.transcript.context for each in self._running if each.unread]
        if list(prompt) in contexts:
            return True
        soon = max((common(context, prompt) for context in contexts), default=0)
        return soon >= self._prefixes.longest(prompt, self._used()) + WORTH_COPYING

    def _read_for(self, prompt: Sequence[int], *, reads_all: bool) -> Read:
        prefixes = self._prefixes
        read = prefixes.fresh() if reads_all else prefixes.take(prompt, self._used())
        prefixes.keep(self._slots - len(self._running) - 1)
        return read

    def _used(self) -> list[Read]:
        return [running.read for running in self._running]

    def _run_model(self) -> list[Handle]:
        """Read on in prompts, and read the tokens that were chosen last.

        Returns:
            The sequences that are finished with their prompts.
        """
        pieces, rows = self._pieces(), self._rows()
        alike = self._decoder.rows_alike
        if alike is None:
            return self._append(pieces, rows)
        told = self._append(pieces, [])
        for first in range(0, len(rows), alike):
            self._append([], rows[first : first + alike])
        return told

    def _pieces(self) -> list[_Piece]:
        """What is read of the oldest prompt that is not read yet, and of others if they are short.

        Where nothing is decoded meanwhile, nobody waits, and pieces are large.
        """
        unread = [each for each in self._running if each.unread]
        if not unread:
            return []
        first, *others = unread
        context, start = first.transcript.context, len(first.read.tokens)
        multiple, size = self._decoder.piece_multiple, ALONE
        if multiple is None:
            return [_Piece(first, context[start:])]
        if rows := len(self._running) - len(unread):
            scored = _is_scored(first)
            size = PIECE if self._pace is None else self._pace.size(rows, scored=scored)
        # Cut at multiples, wherever a copied prefix ended.
        end = max(start + size, start + multiple) // multiple * multiple
        pieces = [_Piece(first, context[start:end])]
        if self._decoder.rows_alike is not None or _is_scored(first):
            return pieces
        left = size - len(pieces[0].tokens)
        for running in others:
            tokens = running.transcript.context[len(running.read.tokens) :]
            if len(tokens) > left or _is_scored(running):
                break
            pieces.append(_Piece(running, tokens))
            left -= len(tokens)
        return pieces

    def _rows(self) -> list[_Running]:
        """The sequences whose latest token is to be read; drafts are checked at once."""
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
        return plain

    def _append(self, pieces: Sequence[_Piece], rows: Sequence[_Running]) -> list[Handle]:
        """Append pieces of prompts, and a token each to the rows.

        Returns:
            The sequences that are finished with their prompts.
        """
        texts = [(each.running.read.slot, each.tokens) for each in pieces]
        texts += [(each.read.slot, [each.transcript.context[-1]]) for each in rows]
        if not texts:
            return []
        scored = self._scoring if pieces and _is_scored(pieces[0].running) else None
        read = sum(len(each.tokens) for each in pieces)
        start = time.perf_counter()
        if scored is None:
            logits = self._decoder.append(texts, prompt=bool(pieces))
        else:  # one piece, alone or with rows behind it
            states = scored.hidden(texts, prompt=True, every=True)
            _tell_prompt(pieces[0], scored, states[:read])
            logits = scored.logits(states[read - 1 :])
        if self._pace is not None:
            seconds = time.perf_counter() - start
            self._pace.took(seconds, rows=len(rows), read=read, scored=scored is not None)
        for running, row in zip(rows, logits[len(pieces) :], strict=True):
            running.logits = row
            running.read.tokens.append(running.transcript.context[-1])
        return [
            each.running.handle
            for each, row in zip(pieces, logits[: len(pieces)], strict=True)
            if self._has_read(each, row)
        ]

    def _has_read(self, piece: _Piece, logits: Floats) -> bool:
        """Note what was read of a sequence's context; whether that was all it wanted."""
        running = piece.running
        read, context = running.read, running.transcript.context
        read.tokens += piece.tokens
        if len(read.tokens) < len(context):
            return False
        if not running.transcript.history.generated_count:
            read.logits, read.prompt_length = logits, len(context)
        running.unread, running.logits = False, logits
        if not running.handle.request.prompt_only:
            return False
        running.handle.events.append(
            TokenEvent(index=running.handle.request.index, text="", finish_reason="length")
        )
        self._finish(running)
        return True

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
        self._prefixes.give_back(running.read)

    def _transcript(self, request: Request) -> Transcript:
        return Transcript(
            request.prompt,
            request.params,
            n_positions=self._decoder.n_positions,
            token_bytes=self._token_bytes,
            eos_ids=self._eos_ids.union(request.eos_ids),
            index=request.index,
        )


def _is_scored(running: _Running) -> bool:
    """Whether the tokens of a prompt that is being read are told."""
    asked = running.handle.request.prompt_logprobs is not None
    return asked and not running.transcript.history.generated_count


def _tell_prompt(piece: _Piece, decoder: ScoringDecoder, states: Floats) -> None:
    """Tell of a piece of a prompt; ``states`` are those after each of its tokens."""
    handle, start = piece.running.handle, len(piece.running.read.tokens)
    if not start:
        handle.prompt_tokens.append(PromptToken(piece.tokens[0]))
    ids = handle.request.prompt.ids
    targets = ids[start + 1 : start + 1 + len(piece.tokens)]
    count = handle.request.prompt_logprobs or 0
    handle.prompt_tokens += score_prompt(decoder, states[: len(targets)], targets, count)


@dataclass(slots=True, eq=False)
class _Running:
    """A sequence that has a slot.

    Attributes:
        unread: Whether some of its context is still to be read, as a prompt is.
        logits: Those after the context, [vocab]; None while its last token is not read.
    """

    handle: Handle
    transcript: Transcript
    read: Read
    ahead: Speculation | None = None
    unread: bool = True
    logits: Floats | None = None

    def uniform(self, position: int) -> float:
        """The random number that a token of this sequence is drawn with."""
        request = self.handle.request
        return uniform(request.params.seed or 0, request.record, request.index, position)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens of a prompt that are read in one step."""

    running: _Running
    tokens: Sequence[int]

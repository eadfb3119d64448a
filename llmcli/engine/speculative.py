"""Speculative decoding that changes no token: a draft proposes, the model reads it all at once.

Every token is chosen as without a draft, from the model's own logits and with the same random
number (see :func:`llmcli.engine.choosing.choose`); a proposal only lets logits be there before
they are asked for. So the text for a seed is the same with and without a draft, greedy or
sampled (on decoders that are not ours up to the last bits in which reading several tokens at
once differs from reading one).

Reading k + 1 tokens costs less than k + 1 steps because the weights are streamed once. For the
idea: Leviathan et al. 2023 (arXiv:2211.17192); for the look-up draft: Saxena 2023, "Prompt
Lookup Decoding".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Protocol

import numpy as np

from llmcli.engine.decoder import Decoder, Floats
from llmcli.engine.params import DraftStats, SamplingParams
from llmcli.engine.sampling import draw, filter_logits, most_likely

if TYPE_CHECKING:
    from llmcli.engine.grammar.constraint import Constraint

# The most tokens that are proposed at once.
LONGEST = 8
# How much of the time without a draft may be lost by proposals that are not taken.
_LOSS = 0.03


class Draft(Protocol):
    """Guesses what comes next."""

    def propose(
        self,
        context: Sequence[int],
        count: int,
        *,
        params: SamplingParams,
        numbers: Callable[[int], float],
        constraint: Constraint | None = None,
    ) -> list[int]:
        """Return up to ``count`` tokens that may follow the context.

        Args:
            context: Token ids so far.
            count: How many, at least one.
            params: How the model's own tokens are drawn.
            numbers: The random numbers that the next tokens are drawn with, from 0.
            constraint: The text's grammar, which the tokens must keep to.
        """
        ...


class NgramDraft:
    """What followed the last time that the latest tokens stood in the text.

    Args:
        longest: Tokens that are compared; fewer where no such place is found.
        shortest: The fewest that count as a match.
    """

    def __init__(self, *, longest: int = 4, shortest: int = 2) -> None:
        self._sizes = range(longest, shortest - 1, -1)
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}

    def propose(
        self,
        context: Sequence[int],
        count: int,
        *,
        params: SamplingParams,
        numbers: Callable[[int], float],
        constraint: Constraint | None = None,
    ) -> list[int]:
        """Return what followed an earlier place; empty where there is none."""
        self._read(context)
        for size in self._sizes:
            place = self._after.get(tuple(context[-size:])) if size <= len(context) else None
            if place is not None:
                proposed = list(context[place : place + count])
                return proposed if constraint is None else constraint.cut(proposed)
        return []

    def _read(self, context: Sequence[int]) -> None:
        """Note where each n-gram ends, except the one at the very end."""
        known = len(self._ids)
        if known > len(context) or list(context[:known]) != self._ids:
            self._after.clear()
            known = 0
        for end in range(max(known, 1), len(context)):
            for size in self._sizes:
                if size <= end:
                    self._after[tuple(context[end - size : end])] = end
        self._ids = list(context)


class ModelDraft:
    """A faster model with the same vocabulary: a smaller one, or the same one quantised.

    It draws with the same random numbers, so it proposes what the model will choose wherever
    their distributions agree.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._slot = decoder.open()
        self._ids: list[int] = []

    def propose(
        self,
        context: Sequence[int],
        count: int,
        *,
        params: SamplingParams,
        numbers: Callable[[int], float],
        constraint: Constraint | None = None,
    ) -> list[int]:
        """Return the faster model's continuation; empty where its context is full."""
        count = min(count, self._decoder.n_positions - len(context))
        if count < 1:
            return []
        logits = self._catch_up(context)
        proposed: list[int] = []
        with nullcontext() if constraint is None else constraint.ahead() as ahead:
            while True:
                if ahead is not None:
                    logits = np.where(ahead.mask(len(logits)), logits, np.float32(-np.inf))
                if params.greedy:
                    token = most_likely(logits)
                else:
                    token = draw(filter_logits(logits, params), numbers(len(proposed)))
                proposed.append(token)
                over = ahead is not None and not ahead.take(token)
                if over or len(proposed) == count:
                    return proposed
                self._ids.append(token)
                logits = self._decoder.append([(self._slot, [token])])[0]

    def _catch_up(self, context: Sequence[int]) -> Floats:
        """Bring the cache to the context; logits [vocab] after it."""
        common = 0
        for ours, theirs in zip(self._ids, context[:-1], strict=False):
            if ours != theirs:
                break
            common += 1
        self._ids = list(context)
        self._decoder.truncate(self._slot, common)
        texts = [(self._slot, context[common:])]
        logits: Floats = self._decoder.append(texts, prompt=not common)[0]
        return logits


class Speculation:
    """Gives the logits after each token of one sequence, ahead of time where it can.

    Whether and how much is proposed follows from what was measured so far: the time of a plain
    step, that of a proposal with its reading, and how many tokens were taken. What proposals
    have lost is held within a small part of the time that plain steps would have taken.

    Args:
        decoder: The model.
        slot: Where the sequence's prompt is.
        draft: What proposes.
        params: How tokens are drawn.
        number: The random number that the token at a position of the continuation is drawn with.
        stats: Counted up.
        constraint: The text's grammar.
    """

    def __init__(
        self,
        decoder: Decoder,
        slot: int,
        draft: Draft,
        params: SamplingParams,
        number: Callable[[int], float],
        stats: DraftStats,
        *,
        constraint: Constraint | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._decoder = decoder
        self._slot = slot
        self._draft = draft
        self._params = params
        self._number = number
        self._stats = stats
        self._constraint = constraint
        self._clock = clock
        self._ahead: list[tuple[int, Floats]] = []
        self._step_seconds: float | None = None
        self._tokens = 0
        self._balance = 0.0
        self._count = 4.0

    def advance(self, context: Sequence[int], room: int) -> Floats:
        """Return logits [vocab] after ``context``, whose last token the decoder has not seen.

        Args:
            context: Token ids; all but the last were given in calls before, or are the prompt.
            room: How many tokens after it can be of use.
        """
        self._tokens += 1
        token = context[-1]
        if self._ahead and self._ahead[0][0] == token:
            self._stats.accepted += 1
            self._balance += self._step_seconds or 0.0
            self._count = min(self._count + 0.5, LONGEST)
            return self._ahead.pop(0)[1]
        if self._ahead:
            self._count = max(self._count / 2, 1.0)
            self.forget()
            self._decoder.truncate(self._slot, len(context) - 1)
        start = self._clock()
        count = min(int(self._count), room, self._decoder.n_positions - len(context))
        proposed = self._propose(context, count) if count > 0 and self._affordable() else []
        if not proposed:
            logits: Floats = self._decoder.append([(self._slot, [token])])[0]
            self._note_step(self._clock() - start)
            return logits
        self._stats.proposed += len(proposed)
        rows = self._decoder.append([(self._slot, [token, *proposed])], every=True)
        self._balance += (self._step_seconds or 0.0) - (self._clock() - start)
        self._ahead = list(zip(proposed, rows[1:], strict=True))
        first: Floats = rows[0]
        return first

    def forget(self) -> None:
        """Drop what was read ahead, as when the context slides."""
        self._ahead = []

    def _propose(self, context: Sequence[int], count: int) -> list[int]:
        drawn = self._tokens

        def numbers(position: int) -> float:
            return self._number(drawn + position)

        return self._draft.propose(
            context, count, params=self._params, numbers=numbers, constraint=self._constraint
        )

    def _affordable(self) -> bool:
        """Whether a proposal that fails would leave the loss within its bounds."""
        step = self._step_seconds
        return step is not None and self._balance - step > -step * (2 + _LOSS * self._tokens)

    def _note_step(self, seconds: float) -> None:
        known = self._step_seconds
        # The shortest counts, slowly forgotten: what else the machine does is no step's fault.
        self._step_seconds = seconds if known is None else min(seconds, known * 1.01)

"""Beam search: the likeliest continuations as whole texts, over a decoder's slots."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmcli.engine.decoder import Decoder, Floats
from llmcli.engine.history import History
from llmcli.engine.params import SamplingParams
from llmcli.engine.sampling import (
    check_logits,
    check_shaped,
    draw_index,
    filter_logits,
    largest,
    log_sum_exp,
    penalize,
    softmax,
    uniform,
)

_NEVER = np.float32(-1e9)  # the score of what is not to be chosen, as in transformers
_PIECE = 512


def beam_search(
    decoder: Decoder,
    prompt: Sequence[int],
    params: SamplingParams,
    *,
    max_new_tokens: int,
    eos_ids: Collection[int] = (),
    record: int = 0,
    should_stop: Callable[[], bool] = bool,
) -> list[list[int]]:
    """Return ``num_return_sequences`` continuations, best first.

    What transformers' beam search finds with the same settings. A temperature above 0 draws each
    step's candidates, without putting them back, where otherwise the best are taken.

    Args:
        decoder: The model.
        prompt: Token ids, at least one.
        params: Settings; ``num_beams`` is at least ``num_return_sequences``. Penalties act on
            log-probabilities.
        max_new_tokens: How many tokens at most; the context holds them.
        eos_ids: Tokens that end a text.
        record: Which record of a batch this is, for what is drawn.
        should_stop: Asked once a step; true ends the search with the best so far.

    Returns:
        Token ids of each continuation, an end token that was chosen included.

    Raises:
        NumericalError: the logits are NaN or infinite.
        InvalidInput: the settings forbid every token.
    """
    search = _Search(decoder, prompt, params, max_new_tokens, frozenset(eos_ids), record)
    try:
        while not search.step(stop=should_stop()):
            search.read()
        return search.best(params.num_return_sequences)
    finally:
        search.close()


@dataclass(slots=True)
class _Beam:
    """A text that may go on."""

    slot: int
    history: History
    score: np.float32


@dataclass(frozen=True, slots=True)
class _Ended:
    """A text that has ended; ``tokens`` is None where there is none yet."""

    score: np.float32
    tokens: list[int] | None = None


class _Search:
    """The state of one search; names and order of its steps are transformers'."""

    def __init__(
        self,
        decoder: Decoder,
        prompt: Sequence[int],
        params: SamplingParams,
        max_new_tokens: int,
        eos_ids: frozenset[int],
        record: int,
    ) -> None:
        self._decoder = decoder
        self._params = params
        self._limit = max_new_tokens
        self._eos_ids = eos_ids
        self._record = record
        self._ends = frozenset() if params.ignore_eos else eos_ids
        self._generated = 0
        count = params.num_beams
        # All beams are one text at first, and only the first of them counts.
        slot = decoder.open()
        self._slots = [slot]
        history = History(prompt, ngram_size=params.no_repeat_ngram_size)
        self._beams = [
            _Beam(slot, history, np.float32(0) if not index else _NEVER) for index in range(count)
        ]
        self._ended = [_Ended(_NEVER)] * count
        self._can_improve = True
        self._logits = self._read_prompt(slot, prompt)

    def close(self) -> None:
        """Give the slots back."""
        for slot in self._slots:
            self._decoder.close(slot)
        self._slots = []

    def best(self, count: int) -> list[list[int]]:
        """The best texts that have ended."""
        return [each.tokens or [] for each in self._ended[:count]]

    def step(self, *, stop: bool) -> bool:
        """Choose the beams' next tokens; whether the search is over."""
        count = self._params.num_beams
        scores, beams, tokens = self._candidates()
        self._generated += 1
        over = stop or self._generated >= self._limit
        ends = np.array([over or int(token) in self._ends for token in tokens])
        self._end(scores, beams, tokens, ends)
        running = scores + np.where(ends, _NEVER, np.float32(0))
        order = largest(running, count)
        self._go_on(running[order], beams[order], tokens[order])
        self._can_improve = self._can_improve and self._may_improve()
        all_ended = all(each.tokens is not None for each in self._ended)
        full = all_ended and self._params.early_stopping is True
        return not self._can_improve or full or bool(ends.all())

    def read(self) -> None:
        """Append the beams' last tokens to their slots."""
        texts = [(beam.slot, [beam.history.ids[-1]]) for beam in self._beams]
        alike = self._decoder.rows_alike or len(texts)
        logits = [
            self._decoder.append(texts[start : start + alike])
            for start in range(0, len(texts), alike)
        ]
        self._logits = np.concatenate(logits)

    def _read_prompt(self, slot: int, prompt: Sequence[int]) -> Floats:
        for start in range(0, len(prompt), _PIECE):
            piece = prompt[start : start + _PIECE]
            logits = self._decoder.append([(slot, piece)], prompt=True)
        return np.broadcast_to(logits[-1], (len(self._beams), logits.shape[1]))

    def _candidates(self) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The best continuations by one token of all beams: scores, beams, tokens."""
        rows = [
            self._shaped(row, beam) + beam.score
            for row, beam in zip(self._logits, self._beams, strict=True)
        ]
        together = np.concatenate(rows)
        check_shaped(together)
        # So many that, whatever ends, as many as there are beams go on.
        kept = min(max(2, 1 + len(self._ends)) * len(self._beams), len(together))
        found = largest(together, kept) if self._params.greedy else self._drawn(together, kept)
        return together[found], found // len(rows[0]), found % len(rows[0])

    def _shaped(self, logits: Floats, beam: _Beam) -> Floats:
        check_logits(logits, len(beam.history.ids))
        normal = logits - np.float32(log_sum_exp(logits))
        shaped = penalize(normal, self._params, beam.history, eos_ids=self._eos_ids)
        if self._params.greedy or not np.isfinite(highest := shaped.max()):
            return shaped
        # The filters take the highest value away, and beams are compared with each other.
        filtered = filter_logits(shaped, self._params)
        scaled = highest / np.float32(self._params.temperature)
        moved: Floats = filtered + (scaled - filtered.max())
        return moved

    def _drawn(self, scores: Floats, count: int) -> npt.NDArray[np.int64]:
        """Indices drawn one after the other, each at most once."""
        weights = softmax(scores)
        count = min(count, int(np.count_nonzero(weights)))
        drawn = []
        seed = self._params.seed or 0
        for index in range(count):
            found = draw_index(weights, uniform(seed, self._record, index, self._generated))
            weights[found] = 0
            drawn.append(found)
        # Where filters leave less than the beams need, what is next goes with them.
        rest = [each for each in largest(scores, len(self._beams) * 2) if each not in set(drawn)]
        missing = max(0, 2 * len(self._beams) - count)
        return np.array([*drawn, *rest[:missing]], np.int64)

    def _end(
        self,
        scores: Floats,
        beams: npt.NDArray[np.int64],
        tokens: npt.NDArray[np.int64],
        ends: npt.NDArray[np.bool_],
    ) -> None:
        """Keep the best of the texts that end here and of those that have ended before."""
        if not self._can_improve:
            return
        if self._params.early_stopping is True and all(
            each.tokens is not None for each in self._ended
        ):
            return
        length = _divisor(self._generated, self._params.length_penalty)
        found = list(self._ended)
        for place in np.flatnonzero(ends[: self._params.num_beams]):
            history = self._beams[int(beams[place])].history
            text = [*history.ids[len(history.ids) - history.generated_count :], int(tokens[place])]
            found.append(_Ended(np.float32(scores[place] / length), text))
        # A stable order: of equals the earlier one. Any text comes before a place without one.
        found.sort(key=lambda each: (each.tokens is None, -each.score))
        self._ended = found[: self._params.num_beams]

    def _go_on(
        self, scores: Floats, beams: npt.NDArray[np.int64], tokens: npt.NDArray[np.int64]
    ) -> None:
        """Make the texts that go on the beams; slots are copied where one parts in two."""
        parents = [self._beams[int(beam)] for beam in beams]
        free = [slot for slot in self._slots if slot not in {each.slot for each in parents}]
        taken: set[int] = set()
        following = []
        for parent, score, token in zip(parents, scores, tokens, strict=True):
            slot = parent.slot
            if slot in taken:
                slot = self._copied(parent, free)
            taken.add(slot)
            history = parent.history.copy()
            history.append(int(token))
            following.append(_Beam(slot, history, score))
        self._beams = following

    def _copied(self, parent: _Beam, free: list[int]) -> int:
        """A slot that holds what the parent's does."""
        if not free:
            free.append(self._decoder.open())
            self._slots.append(free[-1])
        slot = free.pop()
        held = self._decoder.copy(parent.slot, slot, self._decoder.length(parent.slot))
        if missing := parent.history.ids[held : self._decoder.length(parent.slot)]:
            self._decoder.append([(slot, missing)])
        return slot

    def _may_improve(self) -> bool:
        """Whether a beam can still become better than the worst text that has ended.

        A guess where the length counts: of the length that the texts have now, or, with
        ``early_stopping`` "never" and a positive penalty, of the greatest length.
        """
        penalty = self._params.length_penalty
        longest = self._params.early_stopping == "never" and penalty > 0
        length = _divisor(self._limit if longest else self._generated, penalty)
        worst = min(each.score for each in self._ended)
        possible = self._beams[0].score / length
        return any(each.tokens is None or possible > worst for each in self._ended)


def _divisor(length: int, penalty: float) -> np.float32:
    """What a score is divided by; with a penalty beyond reason, what float32 can divide by."""
    with np.errstate(over="ignore", under="ignore"):
        power = np.power(np.float64(length), penalty)
    return np.float32(np.clip(power, 1e-20, 1e20))

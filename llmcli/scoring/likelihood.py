"""Token log-probabilities of windows, in batches, one pass, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from llmcli.engine.decoder import Floats, ScoringDecoder
from llmcli.errors import NumericalError
from llmcli.scoring.states import ROWS_SLICE, States, WindowStates
from llmcli.scoring.token_scores import TokenScores, best_tokens, join
from llmcli.scoring.windows import Window

K = TypeVar("K")

# Positions run at once where nobody asked for a number of windows: enough to keep the matrix
# products efficient, few enough to keep what lies between them small.
BATCH_TOKENS = 1024
# How many windows are looked at to put those of like length together.
_LOOK_AHEAD = 64


class Likelihood:
    """Scores windows with a model.

    Windows that begin alike (the choices of one prompt, texts after one prompt) share what they
    begin with: it is read once, and its keys and values are copied.

    Args:
        decoder: The model; its slots are taken and given back.
        batch_size: Windows in a batch; None for as many as make about a thousand tokens.
            It changes no result beyond rounding.
        top: With a number, each token's rank and the distribution's entropy and this many
            alternatives are computed too.
    """

    def __init__(
        self, decoder: ScoringDecoder, *, batch_size: int | None = None, top: int | None = None
    ) -> None:
        self._decoder = decoder
        self._source: States = decoder
        self._batch_size = batch_size
        self._top = top

    def score(self, windows: Iterable[tuple[K, Window]]) -> Iterator[tuple[K, Window, TokenScores]]:
        """Score windows; each comes back with its key, in the order given.

        Windows of one length or another are batched with their like.

        Raises:
            NumericalError: the model's logits are NaN or infinite; the message names the token.
        """
        with self.session() as score:
            for group in _groups(windows, self._batch_size):
                found = score([window for _, window in group])
                for (key, window), scores in zip(group, found, strict=True):
                    yield key, window, scores

    @contextmanager
    def session(self) -> Iterator[Callable[[Sequence[Window]], list[TokenScores]]]:
        """Give what scores one group of windows after the other.

        What the windows of a group begin with in common is read once, and not even that where
        the group before began with it, too. Errors as for `score`.
        """
        with WindowStates(self._source) as reader:
            yield partial(self._group, reader)

    def _group(self, reader: WindowStates, windows: Sequence[Window]) -> list[TokenScores]:
        results: dict[int, TokenScores] = {}
        reader.share(windows)
        for batch in _batches(windows, self._batch_size, reader.shared):
            found = self._run(reader, [windows[index] for index in batch])
            results.update(zip(batch, found, strict=True))
        return [results[index] for index in range(len(windows))]

    def _run(self, reader: WindowStates, batch: Sequence[Window]) -> list[TokenScores]:
        parts: list[list[TokenScores]] = [[] for _ in batch]
        for pieces in reader.read(batch):
            begin = 0
            targets = [token for piece in pieces for token in piece.targets]
            scores = self._ask(reader.states(pieces), targets)
            for piece in pieces:
                end = begin + len(piece.targets)
                parts[piece.index].append(scores.stretch(begin, end))
                begin = end
        joined = [join(part) for part in parts]
        for window, part in zip(batch, joined, strict=True):
            if not _finite(part):
                raise _broken(window, self._first_broken(window))
        return joined

    def _first_broken(self, window: Window) -> int:
        """Index in the window of the first token whose log-probability is no number.

        A position that is NaN can make those before it NaN too, because attention weighs its
        values by 0 for them. So windows cut short are asked, by bisection.
        """
        low, high = window.first, len(window.tokens) - 1
        while low < high:
            middle = (low + high) // 2
            with WindowStates(self._source) as reader:
                short = Window(window.tokens[: middle + 1], middle, 0)
                ((piece,),) = reader.read([short])
                finite = _finite(self._ask(reader.states([piece]), piece.targets))
            low, high = (middle + 1, high) if finite else (low, middle)
        return low

    def _ask(self, states: Floats, targets: Sequence[int]) -> TokenScores:
        """Score one token after each of some states."""
        found = self._decoder.score(states, targets)
        if self._top is None:
            return TokenScores.of_rows(found)
        return TokenScores.of_rows(found, lambda: self._alternatives(states, found["log_sum_exp"]))

    def _alternatives(
        self, states: Floats, sums: npt.NDArray[np.float64]
    ) -> Sequence[Sequence[tuple[int, float]]]:
        if not self._top:
            return [[] for _ in states]
        found: list[list[tuple[int, float]]] = []
        for begin in range(0, len(states), ROWS_SLICE):
            logits = self._decoder.logits(states[begin : begin + ROWS_SLICE])
            logprobs = (logits - sums[begin : begin + ROWS_SLICE, None]).astype(np.float32)
            found += best_tokens(logprobs, self._top)
        return found


def _finite(scores: TokenScores) -> bool:
    return all(all(map(math.isfinite, values)) for values in (scores.logprobs, scores.other))


def _broken(window: Window, index: int) -> NumericalError:
    place = window.position + index - window.first
    return NumericalError(
        f"The model gives token {place} of the text a log-probability that is NaN or infinite.",
        "Its weights or the precision are broken: fetch the model again, or use "
        "--precision float32.",
    )


def _groups(
    windows: Iterable[tuple[K, Window]], batch_size: int | None
) -> Iterator[list[tuple[K, Window]]]:
    """Windows in stretches that are batched among themselves: a few batches each."""
    limit = _LOOK_AHEAD if batch_size is None else 4 * batch_size
    group: list[tuple[K, Window]] = []
    tokens = 0
    for item in windows:
        group.append(item)
        tokens += len(item[1].tokens)
        if len(group) == limit or (batch_size is None and tokens >= 4 * BATCH_TOKENS):
            yield group
            group, tokens = [], 0
    if group:
        yield group


def _batches(windows: Sequence[Window], batch_size: int | None, shared: int) -> Iterator[list[int]]:
    """Indices of windows that run together, like lengths side by side.

    Their first ``shared`` tokens are read already.
    """
    order = sorted(range(len(windows)), key=lambda index: -len(windows[index].tokens))
    batch: list[int] = []
    for index in order:
        longest = len(windows[batch[0]].tokens) - shared if batch else 0
        full = (
            (len(batch) + 1) * longest > BATCH_TOKENS + len(batch) + 1
            if batch_size is None
            else len(batch) == batch_size
        )
        if batch and full:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch

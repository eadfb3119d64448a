"""Token log-probabilities of windows, in batches, one pass, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch

from llmcli.errors import NumericalError
from llmcli.scoring.output_layer import TokenScores, describe, join
from llmcli.scoring.readers import Reader
from llmcli.scoring.windows import Window

K = TypeVar("K")

# Positions run at once where nobody asked for a number of windows: enough to keep the matrix
# products efficient, few enough to keep what lies between them small.
BATCH_TOKENS = 1024
# How many windows are looked at to put those of like length together.
_LOOK_AHEAD = 64


class Likelihood:
    """Scores windows with a model.

    Args:
        reader: Runs the model.
        device: Where the reader wants its tokens.
        batch_size: Windows in a batch; None for as many as make about a thousand tokens.
            It changes no result beyond rounding.
        top: With a number, each token's rank and the distribution's entropy and this many
            alternatives are computed too.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        device: str = "cpu",
        batch_size: int | None = None,
        top: int | None = None,
    ) -> None:
        self._reader = reader
        self._device = torch.device(device)
        self._batch_size = batch_size
        self._top = top

    def score(self, windows: Iterable[tuple[K, Window]]) -> Iterator[tuple[K, Window, TokenScores]]:
        """Score windows; each comes back with its key, in the order given.

        Windows of one length or another are batched with their like, padded on the right.

        Raises:
            NumericalError: the model's logits are NaN or infinite; the message names the token.
        """
        for group in _groups(windows, self._batch_size):
            results: dict[int, TokenScores] = {}
            for batch in _batches([window for _, window in group], self._batch_size):
                found = self._run([group[index][1] for index in batch])
                results.update(zip(batch, found, strict=True))
            for index, (key, window) in enumerate(group):
                yield key, window, results[index]

    @torch.inference_mode()
    def _run(self, batch: Sequence[Window]) -> list[TokenScores]:
        time = max(len(window.tokens) for window in batch) - 1
        ids = torch.zeros((len(batch), time), dtype=torch.int64)
        rows: list[int] = []
        targets: list[int] = []
        for index, window in enumerate(batch):
            ids[index, : len(window.tokens) - 1] = torch.tensor(window.tokens[:-1])
            base = index * time - 1
            rows.extend(range(base + window.first, base + len(window.tokens)))
            targets.extend(window.tokens[window.first :])
        scores = self._ask(
            ids.to(self._device),
            torch.tensor(rows, device=self._device),
            torch.tensor(targets, device=self._device),
        )
        parts = []
        begin = 0
        for window in batch:
            part = scores.stretch(begin, begin + window.scored)
            if not _finite(part):
                raise _broken(window, self._first_broken(window))
            parts.append(part)
            begin += window.scored
        return parts

    def _first_broken(self, window: Window) -> int:
        """Index in the window of the first token whose log-probability is no number.

        A position that is NaN can make those before it NaN too, because attention weighs its
        values by 0 for them. So windows cut short are asked, by bisection.
        """
        low, high = window.first, len(window.tokens) - 1
        while low < high:
            middle = (low + high) // 2
            ids = torch.tensor([window.tokens[:middle]], device=self._device)
            rows = torch.tensor([middle - 1], device=self._device)
            target = torch.tensor([window.tokens[middle]], device=self._device)
            if _finite(self._ask(ids, rows, target)):
                low = middle + 1
            else:
                high = middle
        return low

    def _ask(self, ids: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor) -> TokenScores:
        if self._top is None:
            return TokenScores(self._reader.logprobs(ids, rows, targets).tolist())
        parts = []
        begin = 0
        for logits in self._reader.logits(ids, rows):
            end = begin + len(logits)
            parts.append(describe(logits, targets[begin:end], top=self._top))
            begin = end
        return join(parts)


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


def _batches(windows: Sequence[Window], batch_size: int | None) -> Iterator[list[int]]:
    """Indices of windows that run together, like lengths side by side."""
    order = sorted(range(len(windows)), key=lambda index: -len(windows[index].tokens))
    batch: list[int] = []
    for index in order:
        longest = len(windows[batch[0]].tokens) if batch else 0
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

"""What a model thought of consecutive tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcli.engine.decoder import Floats


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What the model thought of consecutive tokens, a list entry for each.

    Attributes:
        logprobs: Natural log of each token's probability.
        ranks: Its place among all tokens, from 1; empty unless asked for.
        entropies: Entropy of the distribution in nats; empty unless asked for.
        top: The most likely tokens, as (id, logprob); empty unless asked for.
        other: What a second model gives each token; empty without one.
        other_seen: What a second model thought of each beyond that: rank, entropy, the most likely
            tokens; empty unless asked for.
        divergences: KL divergence of the second model's distribution from the first's, nats.
        agreements: Whether both hold the same token most likely.
        numbers: What calibration needs, see `llmcli.scoring.temperature.token_numbers`.
    """

    logprobs: list[float]
    ranks: Sequence[int] = ()
    entropies: Sequence[float] = ()
    top: Sequence[Sequence[tuple[int, float]]] = ()
    other: Sequence[float] = ()
    other_seen: Sequence[tuple[int, float, Sequence[tuple[int, float]]]] = ()
    divergences: Sequence[float] = ()
    agreements: Sequence[bool] = ()
    numbers: Sequence[npt.NDArray[np.float64]] = ()

    @classmethod
    def of_rows(
        cls,
        found: npt.NDArray[Any],
        top: Callable[[], Sequence[Sequence[tuple[int, float]]]] | None = None,
    ) -> TokenScores:
        """The scores of rows of :data:`llmcli.engine.row_stats.ROW_STATS`.

        Args:
            found: [tokens].
            top: Gives the most likely tokens; None where likelihoods alone are asked for.
        """
        logprobs = (found["target"] - found["log_sum_exp"]).tolist()
        if top is None:
            return cls(logprobs)
        return cls(
            logprobs=logprobs,
            ranks=(found["greater"] + 1).tolist(),
            entropies=found["entropy"].tolist(),
            top=top(),
        )

    def of_other(self) -> TokenScores:
        """What the second model thought of the tokens."""
        ranks, entropies, top = zip(*self.other_seen, strict=True) if self.other_seen else ((),) * 3
        return TokenScores(list(self.other), ranks=ranks, entropies=entropies, top=top)

    def stretch(self, begin: int, end: int) -> TokenScores:
        """The scores of the tokens from ``begin`` to ``end``."""
        return TokenScores(*(getattr(self, each.name)[begin:end] for each in fields(self)))


def join(parts: Sequence[TokenScores]) -> TokenScores:
    """The scores of consecutive stretches as one."""
    return TokenScores(
        *(
            [value for part in parts for value in getattr(part, each.name)]
            for each in fields(TokenScores)
        )
    )


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities of all tokens; logits are [rows, vocab] float32, and so are these.

    A row that holds NaN or infinity has NaN in it.
    """
    with np.errstate(invalid="ignore"):
        shifted: Floats = logits - logits.max(axis=1, keepdims=True)
        totals = np.exp(shifted).sum(axis=1, keepdims=True, dtype=np.float64)
        shifted -= np.log(totals).astype(np.float32)
    return shifted


def best_tokens(logprobs: Floats, count: int) -> list[list[tuple[int, float]]]:
    """The most likely tokens of each row, the best first; among equals the smaller id.

    Args:
        logprobs: Shape [rows, vocab].
        count: How many.
    """
    count = min(count, logprobs.shape[1])
    if not count:
        return [[] for _ in logprobs]
    found = np.argpartition(-logprobs, count - 1, axis=1)[:, :count]
    found.sort(axis=1)
    values = np.take_along_axis(logprobs, found, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    ids = np.take_along_axis(found, order, axis=1).tolist()
    values = np.take_along_axis(values, order, axis=1).tolist()
    return [list(zip(*row, strict=True)) for row in zip(ids, values, strict=True)]

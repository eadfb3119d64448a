"""The causal view: the next token and the text's likelihood without a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmcli.tasks.inspect.opened import HEAD_ROWS, Head, Opened, parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A token that may come next, with all heads and without some.

    Attributes:
        id: The token.
        logprob: Natural log of its probability.
        without: The same with the heads off.
    """

    id: int
    logprob: float
    without: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadsOff:
    """What becomes of the predictions when heads' outputs are zero.

    Attributes:
        heads: The heads, as (layer, head).
        candidates: The likeliest next tokens, then those that are likeliest without the heads.
        kl: KL divergence, KL(with, without), of the next token's distribution, nats.
        nll: Negative log-likelihood of the text after its first token, nats a token; None for a
            text of one token.
        nll_without: The same with the heads off.
    """

    heads: tuple[Head, ...]
    candidates: tuple[Change, ...]
    kl: float
    nll: float | None
    nll_without: float | None

    def to_dict(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return {
            "heads": [f"{layer}.{head}" for layer, head in self.heads],
            "candidates": [
                {"id": each.id, "logprob": each.logprob, "logprob_without": each.without}
                for each in self.candidates
            ],
            "kl": self.kl,
            "nll_per_token": self.nll,
            "nll_per_token_without": self.nll_without,
        }


def switch_off(opened: Opened, ids: Sequence[int], heads: Sequence[Head], count: int) -> HeadsOff:
    """Compare the model with itself without these heads.

    Args:
        opened: The model.
        ids: The text.
        heads: As (layer, head).
        count: How many candidates of each.
    """
    whole = opened.residuals(ids)[-1]
    less = opened.residuals(ids, off=heads)[-1]
    before, after = opened.logprobs(whole[-1:])[0], opened.logprobs(less[-1:])[0]
    best = before.topk(min(count, len(before))).indices.tolist()
    best += [token for token in after.topk(min(count, len(after))).indices.tolist()
             if token not in best]  # fmt: skip
    return HeadsOff(
        heads=tuple(heads),
        candidates=tuple(
            Change(id=token, logprob=float(before[token]), without=float(after[token]))
            for token in best
        ),
        kl=max(0.0, float((before.exp() * (before - after)).sum())),
        nll=_nll(opened, whole, ids),
        nll_without=_nll(opened, less, ids),
    )


def _nll(opened: Opened, hidden: Tensor, ids: Sequence[int]) -> float | None:
    """Negative log-likelihood a token of all tokens but the first."""
    if len(ids) < 2:
        return None
    targets = torch.tensor(ids[1:], device=hidden.device)
    total = 0.0
    for states, tokens in zip(
        parts(hidden[:-1], HEAD_ROWS), parts(targets, HEAD_ROWS), strict=True
    ):
        total -= float(opened.logprobs(states).gather(1, tokens[:, None]).double().sum())
    return total / len(targets)

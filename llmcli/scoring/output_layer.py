"""From hidden states or logits to log-probabilities, a slice of the vocabulary at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import torch
from torch import Tensor

from llmcli.engine.kernels import Precision, make_linear, quantize

# 1,024 rows of 512 float32 logits are 2 MiB: shared among a few cores they stay in each one's
# own cache, where the passes over them cost little beside the product.
VOCABULARY_SLICE = 512
# An int8 product quantises the hidden states anew for each slice, so there are fewer.
_INT8_SLICE = 2048
# 128 rows of 50,257 float32 logits are 26 MB.
ROWS_SLICE = 128


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What the model thought of consecutive tokens, a list entry for each.

    Attributes:
        logprobs: Natural log of each token's probability.
        ranks: Its place among all tokens, from 1; empty unless asked for.
        entropies: Entropy of the distribution in nats; empty unless asked for.
        top: The most likely tokens, as (id, logprob); empty unless asked for.
        other: What a second model gives each token; empty without one.
        divergences: KL divergence of the second model's distribution from the first's, nats.
        agreements: Whether both hold the same token most likely.
    """

    logprobs: list[float]
    ranks: Sequence[int] = ()
    entropies: Sequence[float] = ()
    top: Sequence[Sequence[tuple[int, float]]] = ()
    other: Sequence[float] = ()
    divergences: Sequence[float] = ()
    agreements: Sequence[bool] = ()

    def stretch(self, begin: int, end: int) -> TokenScores:
        """The scores of the tokens from ``begin`` to ``end``."""
        return TokenScores(*(getattr(self, each.name)[begin:end] for each in fields(self)))


class Head:
    """The output layer, cut along the vocabulary: hidden states [rows, width] to logits.

    Args:
        weight: Shape [vocab, width].
        bias: Shape [vocab], or None.
        precision: Of the products, float32 for the weights as they are; logits are float32 in
            any case.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, precision: Precision = "float32"
    ) -> None:
        stored: Precision = "int8" if precision == "int4" else precision
        self._type = torch.bfloat16 if stored == "bfloat16" else None
        self.vocab_size = len(weight)
        step = _INT8_SLICE if stored == "int8" else VOCABULARY_SLICE
        self._edges = [*range(0, self.vocab_size, step), self.vocab_size]
        self._slices = [
            make_linear(
                quantize(weight[start:end], stored), None if bias is None else bias[start:end]
            )
            for start, end in pairwise(self._edges)
        ]

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits of all tokens, [rows, vocab]."""
        whole = hidden.new_empty((len(hidden), self.vocab_size), dtype=torch.float32)
        hidden = self._narrow(hidden)
        for (start, end), linear in zip(pairwise(self._edges), self._slices, strict=True):
            whole[:, start:end] = linear(hidden)
        return whole

    def logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Log-probability of one token for each row, float32 [rows].

        Logits come a slice of the vocabulary at a time, of which the log-sum-exp is kept, so
        that the logits of a window never exist whole. It is computed in float32.

        Args:
            hidden: Shape [rows, width].
            targets: Token ids, int64 [rows].
        """
        order = torch.argsort(targets)
        edges = torch.tensor(self._edges, device=targets.device)
        bounds = torch.searchsorted(targets[order], edges).tolist()
        sums = torch.empty((len(self._slices), len(targets)), device=hidden.device)
        chosen = torch.empty_like(sums[0])
        hidden = self._narrow(hidden)
        room: Tensor | None = None
        for index, linear in enumerate(self._slices):
            logits = linear(hidden)
            if bounds[index] < bounds[index + 1]:
                rows = order[bounds[index] : bounds[index + 1]]
                chosen[rows] = logits[rows, targets[rows] - self._edges[index]].float()
            if logits.dtype != torch.float32:
                if room is None:  # the first slice is as wide as any
                    room = torch.empty(logits.numel(), device=hidden.device)
                logits = room[: logits.numel()].view(logits.shape).copy_(logits)
            _log_sum_exp(logits, out=sums[index])
        return chosen - torch.logsumexp(sums, 0)

    def _narrow(self, hidden: Tensor) -> Tensor:
        """In the type that the product takes, once instead of for each slice."""
        return hidden if self._type is None else hidden.to(self._type)


def _log_sum_exp(logits: Tensor, *, out: Tensor) -> None:
    """Log-sum-exp of each row into ``out``; ``logits`` are overwritten."""
    # A row in which all tokens are forbidden has -inf as its sum, not NaN.
    highest = logits.amax(1).clamp_(min=torch.finfo(torch.float32).min)
    torch.sum(logits.sub_(highest[:, None]).exp_(), 1, out=out)
    out.log_().add_(highest)


def make_head(weight: Tensor, precision: Precision, probe: Tensor) -> Head:
    """A head in a precision, with the mean row of the weights taken off where that is nearer.

    The mean row adds the same number to all logits of a position, which changes no probability.
    But coarse logits are the coarser the further they are from 0: those of OpenAI's GPT-2 are
    far below it, and gain; other models' likely tokens are near it as they are, and lose.

    Args:
        weight: Shape [vocab, width].
        precision: Of the products.
        probe: Some hidden states of the model, [rows, width], to decide with.
    """
    if precision == "float32":
        return Head(weight)
    wanted = torch.log_softmax(probe.float() @ weight.float().t(), 1)

    def divergence(head: Head) -> float:
        found = torch.log_softmax(head.logits(probe), 1)
        return float((wanted.exp() * (wanted - found)).sum(1).mean())

    centred = (weight.float() - weight.float().mean(0)).to(weight.dtype)
    plain, shifted = (Head(each, None, precision) for each in (weight, centred))
    return shifted if divergence(shifted) < divergence(plain) else plain


def pick_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of one token for each row of whole float32 logits, [rows]."""
    return logits.gather(1, targets[:, None])[:, 0] - torch.logsumexp(logits, 1)


def describe(logits: Tensor, targets: Tensor, *, top: int) -> TokenScores:
    """Everything about each row's distribution and its token.

    Args:
        logits: Shape [rows, vocab], float32.
        targets: Token ids, [rows].
        top: How many of the most likely tokens to list.
    """
    logprobs = torch.log_softmax(logits, 1)
    own = logprobs.gather(1, targets[:, None])
    ranks = (logprobs > own).sum(1) + 1
    best = logprobs.topk(min(top, logprobs.shape[1]), 1)
    # A forbidden token (-inf) adds nothing, though 0 * -inf is NaN.
    entropies = -(logprobs.exp() * logprobs.clamp(min=-1e30)).sum(1)
    return TokenScores(
        logprobs=own[:, 0].tolist(),
        ranks=ranks.tolist(),
        entropies=entropies.tolist(),
        top=[
            list(zip(ids, values, strict=True))
            for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ],
    )


def join(parts: Sequence[TokenScores]) -> TokenScores:
    """The scores of consecutive stretches as one."""
    return TokenScores(
        *(
            [value for part in parts for value in getattr(part, each.name)]
            for each in fields(TokenScores)
        )
    )

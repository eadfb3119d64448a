"""From logits to a token: penalties, filters and the draw, as pure functions on one row.

Each penalty and filter does what transformers' logits processor of the same name does, in the
order in which transformers applies them. All take and return float32 logits of shape [vocab];
what is filtered out is -inf.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from llmcli.engine.history import History
from llmcli.engine.params import SamplingParams


def penalize(
    logits: Tensor, params: SamplingParams, history: History, *, eos_ids: Iterable[int] = ()
) -> Tensor:
    """Apply what depends on the text so far; the given logits are left as they are.

    In order: logit_bias, repetition_penalty (Keskar et al. 2019, arXiv:1909.05858),
    presence and frequency penalties on what was generated, no_repeat_ngram_size, and
    min_new_tokens, which forbids ``eos_ids``.
    """
    logits = logits.clone()
    for token, bias in params.logit_bias:
        logits[token] += bias
    if params.repetition_penalty != 1.0 and len(seen := history.seen):
        values = logits[seen]
        factor = params.repetition_penalty
        logits[seen] = torch.where(values < 0, values * factor, values / factor)
    if params.presence_penalty or params.frequency_penalty:
        taken = params.presence_penalty + params.frequency_penalty * history.generated_counts
        logits[history.generated] -= taken.to(logits.device)
    if params.no_repeat_ngram_size and (repeating := history.repeating()):
        logits[repeating] = -math.inf
    if params.ignore_eos or history.generated_count < params.min_new_tokens:
        for token in eos_ids:
            logits[token] = -math.inf
    return logits


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide the logits by a temperature above 0.

    The highest logit is taken from all of them first, which changes no probability, so that the
    smallest temperature ends in the most likely token and the largest in a uniform draw, never
    in infinities.
    """
    limits = torch.finfo(logits.dtype)
    return (logits - logits.max()) / min(max(temperature, limits.tiny), limits.max)


def filter_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Keep the ``top_k`` highest logits (and what ties with the last of them)."""
    if top_k >= logits.shape[-1]:
        return logits
    threshold = torch.topk(logits, top_k).values[-1]
    return logits.masked_fill(logits < threshold, -math.inf)


def filter_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Keep the fewest most likely tokens whose probabilities add up to ``top_p``.

    Nucleus sampling (Holtzman et al. 2019, arXiv:1904.09751), over the whole distribution.
    """
    values, order = torch.sort(logits, descending=False)
    removed = values.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    removed[-1] = False
    return logits.masked_fill(torch.zeros_like(removed).scatter(0, order, removed), -math.inf)


def filter_min_p(logits: Tensor, min_p: float) -> Tensor:
    """Keep tokens at least ``min_p`` times as likely as the most likely one.

    Nguyen et al. 2024, arXiv:2407.01082. A ratio of probabilities is a difference of logits,
    so nothing needs to be normalised.
    """
    threshold = logits.max() + math.log(min_p)
    return logits.masked_fill(logits < threshold, -math.inf)


def filter_typical_p(logits: Tensor, typical_p: float) -> Tensor:
    """Keep the tokens whose surprisal is nearest to the entropy, up to a mass of ``typical_p``.

    Locally typical sampling (Meister et al. 2022, arXiv:2202.00666).
    """
    logprobs = torch.log_softmax(logits, dim=-1)
    entropy = -(logprobs.exp() * logprobs).nansum()
    distance, order = torch.sort((-logprobs - entropy).abs())
    mass = logits[order].softmax(dim=-1).cumsum(dim=-1)
    last = int((mass < typical_p).sum())
    removed = distance > distance[min(last, len(distance) - 1)]
    return logits.masked_fill(torch.zeros_like(removed).scatter(0, order, removed), -math.inf)


def filter_steps(params: SamplingParams) -> list[tuple[str, float, Callable[[Tensor], Tensor]]]:
    """Return the filters that are on, in transformers' order: name, value, function."""
    steps: list[tuple[str, float, bool, Callable[[Tensor, Any], Tensor]]] = [
        ("temperature", params.temperature, params.temperature not in (0, 1), apply_temperature),
        ("top_k", params.top_k, params.top_k > 0, filter_top_k),
        ("top_p", params.top_p, params.top_p < 1, filter_top_p),
        ("min_p", params.min_p, params.min_p > 0, filter_min_p),
        ("typical_p", params.typical_p, params.typical_p < 1, filter_typical_p),
    ]
    return [
        (name, value, _bound(function, value)) for name, value, active, function in steps if active
    ]


def _bound(function: Callable[[Tensor, Any], Tensor], value: float) -> Callable[[Tensor], Tensor]:
    return lambda logits: function(logits, value)


def filter_logits(logits: Tensor, params: SamplingParams) -> Tensor:
    """Apply temperature, top-k, top-p, min-p and typical-p, in transformers' order."""
    for _, _, apply in filter_steps(params):
        logits = apply(logits)
    return logits


def draw(logits: Tensor, generator: torch.Generator) -> int:
    """Draw a token from the softmax of ``logits`` by inverting its distribution function.

    One uniform number a draw: the same seed takes the same path whatever torch's own
    multinomial does from version to version.
    """
    cumulative = logits.softmax(dim=-1).to(torch.float64).cumsum(dim=-1)
    uniform = torch.rand((), generator=generator, dtype=torch.float64)
    target = uniform * cumulative[-1]
    # right=True: a token of probability 0 has an empty interval and is never drawn.
    return min(int(torch.searchsorted(cumulative, target, right=True)), len(cumulative) - 1)


def derive_seed(seed: int, *indices: int) -> int:
    """Return the seed of one sequence of one record, so that neither depends on its neighbours."""
    text = ":".join(map(str, (seed, *indices)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1

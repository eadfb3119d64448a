"""The distribution of the next token, and what each sampling filter leaves of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from llmcli.engine.decoder import Decoder, Floats
from llmcli.engine.history import History
from llmcli.engine.params import SamplingParams
from llmcli.engine.sampling import (
    check_logits,
    check_shaped,
    entropy,
    filter_steps,
    log_sum_exp,
    most_likely,
    penalize,
    softmax,
    top_tokens,
)
from llmcli.engine.transcript import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A token that may come next.

    Attributes:
        id: The token.
        logprob: Natural log of the model's own probability.
        sampled_logprob: The same in the distribution that would be drawn from; None where the
            filters leave the token out.
    """

    id: int
    logprob: float
    sampled_logprob: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterEffect:
    """What is left after a filter (and those before it).

    Attributes:
        name: The setting, as SamplingParams spells it; "penalties" for all of those.
        value: Its value; None for the penalties.
        kept: How many tokens can still be drawn.
        mass: Their probability before this step, in the distribution the step was given.
        entropy: Of what is left, in nats.
    """

    name: str
    value: float | None
    kept: int
    mass: float
    entropy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NextToken:
    """The next token's distribution.

    Attributes:
        candidates: The most likely tokens by the model's own distribution, best first.
        entropy: Of the model's own distribution, in nats.
        filters: The steps from there to the distribution drawn from.
    """

    candidates: tuple[Candidate, ...]
    entropy: float
    filters: tuple[FilterEffect, ...]


def next_token(
    decoder: Decoder,
    prompt: Prompt,
    params: SamplingParams,
    *,
    count: int,
    eos_ids: tuple[int, ...] = (),
) -> NextToken:
    """Read a prompt and tell what may follow it.

    Args:
        decoder: The model.
        prompt: At least one token.
        params: The filters; temperature 0 leaves the most likely token alone.
        count: How many candidates.
        eos_ids: Tokens that end a text (min_new_tokens forbids them).

    Raises:
        NumericalError: the logits are NaN or infinite.
        InvalidInput: the settings forbid every token.
    """
    slot = decoder.open()
    try:
        logits = decoder.append([(slot, prompt.ids)], prompt=True)[0]
    finally:
        decoder.close(slot)
    check_logits(logits, len(prompt.ids))
    history = History(prompt.ids, ngram_size=params.no_repeat_ngram_size)
    shaped = penalize(logits, params, history, eos_ids=eos_ids)
    check_shaped(shaped)
    effects = []
    if not np.array_equal(shaped, logits):
        effects.append(_effect("penalties", None, logits, shaped))
    for name, value, apply in filter_steps(params):
        before, shaped = shaped, apply(shaped)
        effects.append(_effect(name, value, before, shaped))
    if params.greedy:
        before, best = shaped, most_likely(shaped)
        shaped = np.full_like(before, -math.inf)
        shaped[best] = before[best]
        effects.append(_effect("temperature", 0.0, before, shaped))
    total = log_sum_exp(shaped)
    candidates = tuple(
        Candidate(
            id=each.id,
            logprob=each.logprob,
            sampled_logprob=float(kept) - total if (kept := shaped[each.id]) > -math.inf else None,
        )
        for each in top_tokens(logits, count)
    )
    return NextToken(candidates=candidates, entropy=entropy(logits), filters=tuple(effects))


def _effect(name: str, value: float | None, before: Floats, after: Floats) -> FilterEffect:
    left = after > -math.inf
    return FilterEffect(
        name=name,
        value=value,
        kept=int(left.sum()),
        mass=float(softmax(before)[left].sum(dtype=np.float64)),
        entropy=entropy(after),
    )

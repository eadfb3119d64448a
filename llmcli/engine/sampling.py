"""From logits to a token: penalties, filters and the draw, as pure functions on one row.

Each penalty and filter does what transformers' logits processor of the same name does, in the
order in which transformers applies them. All take and return float32 logits of shape [vocab];
what is filtered out is -inf.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from llmcli.engine.history import History
from llmcli.engine.params import SamplingParams

# Up to this many logits are sorted whole.
_SORTED_WHOLE = 2048
# Bits of a float that bins of probabilities leave out: 6 of the 23 after the point remain.
_BIN_BITS = 17
# Sums over a vocabulary are taken over blocks of this many.
_BLOCK = 256


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread: with 50,257 logits more of them only wait for each other.

    They would also spin for milliseconds afterwards, in the way of the next step's threads; and
    with one thread a sum does not depend on how many there are.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
    return _keep_from(logits, torch.topk(logits, top_k).values[-1])


def _keep_from(logits: Tensor, lowest: Tensor) -> Tensor:
    """Keep logits of at least ``lowest``, a single number; ten times as fast as a mask."""
    below = torch.nextafter(lowest, lowest.new_tensor(-math.inf)).item()
    return torch.threshold(logits, below, -math.inf)


def filter_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Keep the fewest most likely tokens whose probabilities add up to ``top_p``.

    Nucleus sampling (Holtzman et al. 2019, arXiv:1904.09751), over the whole distribution.
    """
    if len(logits) > _SORTED_WHOLE:
        return _filter_top_p_of_many(logits, top_p)
    values, order = torch.sort(logits, descending=False)
    removed = values.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    removed[-1] = False
    return logits.masked_fill(torch.zeros_like(removed).scatter(0, order, removed), -math.inf)


def _filter_top_p_of_many(logits: Tensor, top_p: float) -> Tensor:
    """The same without sorting all: only where the border between kept and removed runs.

    The bits of a float that is not negative are in its order, so their upper ones part the
    probabilities into bins of a 64th of an octave, counted in one pass. Bins that add up to at
    most 1 - top_p go whole, and the next one is sorted as above.
    """
    probs = logits.softmax(dim=-1)
    bins = probs.view(torch.int32) >> _BIN_BITS
    mass = torch.bincount(bins, weights=probs.double()).cumsum(dim=0)
    removable = 1 - top_p
    last = len(mass) - 1
    border = min(int(torch.searchsorted(mass, removable, right=True)), last)
    between = (bins == border).nonzero()[:, 0]
    values, order = torch.sort(probs[between], stable=True)
    below = mass[border - 1] if border else 0.0
    cut = int((values.cumsum(dim=-1, dtype=torch.float64) + below <= removable).sum())
    if border == last:
        cut = min(cut, len(values) - 1)
    if cut == len(values):  # the sums, in another order, differ in their last bits
        return _keep_from(logits, logits[bins > border].min())
    filtered = _keep_from(logits, logits[between[order[cut]]])
    if cut and values[cut - 1] == values[cut]:  # a tie, of which the first ones go
        filtered[between[order[:cut]]] = -math.inf
    return filtered


def filter_min_p(logits: Tensor, min_p: float) -> Tensor:
    """Keep tokens at least ``min_p`` times as likely as the most likely one.

    Nguyen et al. 2024, arXiv:2407.01082. A ratio of probabilities is a difference of logits,
    so nothing needs to be normalised.
    """
    return _keep_from(logits, logits.max() + math.log(min_p))


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
    return draw_index(logits.softmax(dim=-1), generator)


def draw_index(weights: Tensor, generator: torch.Generator) -> int:
    """Draw an index with a probability in proportion to weights [n], which are not negative.

    Summed in float64, by blocks: only the block that the number falls into is walked through.
    """
    main = len(weights) // _BLOCK * _BLOCK
    sums = weights[:main].view(-1, _BLOCK).sum(dim=1, dtype=torch.float64)
    rest = weights[main:].sum(dtype=torch.float64)
    cumulative = torch.cat([sums, rest[None]]).cumsum(dim=0)
    uniform = torch.rand((), generator=generator, dtype=torch.float64).to(weights.device)
    target = uniform * cumulative[-1]
    # right=True: what has probability 0 has an empty interval and is never drawn.
    block = min(int(torch.searchsorted(cumulative, target, right=True)), len(cumulative) - 1)
    start = block * _BLOCK
    inside = weights[start : start + _BLOCK].to(torch.float64).cumsum(dim=0)
    if block:
        inside += cumulative[block - 1]
    index = start + int(torch.searchsorted(inside, target, right=True))
    if index < min(start + _BLOCK, len(weights)) and weights[index] > 0:
        return index
    # Rounding put the number on a block's very end: the last index that can be drawn up to it.
    return int(weights[: start + _BLOCK].nonzero()[-1])


def most_likely(logits: Tensor) -> int:
    """Return the index of the highest of logits [n], the first where there are several.

    By blocks: torch's argmax takes nine times as long as its max.
    """
    main = len(logits) // _BLOCK * _BLOCK
    if not main:
        return int(logits.argmax())
    block = int(logits[:main].view(-1, _BLOCK).amax(dim=1).argmax())
    start = block * _BLOCK
    index = start + int(logits[start : start + _BLOCK].argmax())
    if main < len(logits):
        last = main + int(logits[main:].argmax())
        return last if logits[last] > logits[index] else index
    return index


def derive_seed(seed: int, *indices: int) -> int:
    """Return the seed of one sequence of one record, so that neither depends on its neighbours."""
    text = ":".join(map(str, (seed, *indices)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1

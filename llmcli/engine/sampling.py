"""From logits to a token: penalties, filters and the draw, as pure functions on one row.

Each penalty and filter does what transformers' logits processor of the same name does, in the
order in which transformers applies them. All take and return float32 logits of shape [vocab];
what is filtered out is -inf.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcli.engine.decoder import Floats
from llmcli.engine.history import History
from llmcli.engine.params import SamplingParams, TopToken
from llmcli.errors import InvalidInput, NumericalError

# Up to this many logits are sorted whole.
_SORTED_WHOLE = 2048
# Bits of a float that bins of probabilities leave out: 6 of the 23 after the point remain.
_BIN_BITS = 17
# Top-H looks at so many tokens, as transformers does.
_TOP_H_TOKENS = 100
# Sums over a vocabulary are taken over blocks of this many.
_BLOCK = 256
_LIMITS = np.finfo(np.float32)
_UINT64 = 2**64 - 1
_NONE = np.empty(0, np.int64)


# -- numbers --------------------------------------------------------------------------------


def softmax(logits: Floats) -> Floats:
    """Probabilities of logits [vocab]; summed in float64."""
    weights: Floats = np.exp(logits - logits.max())
    weights /= np.float32(weights.sum(dtype=np.float64))
    return weights


def log_sum_exp(logits: Floats) -> float:
    """The natural log of the sum of exponentials of logits [vocab]."""
    highest = float(logits.max())
    return highest + math.log(float(np.exp(logits - np.float32(highest)).sum(dtype=np.float64)))


def entropy(logits: Floats) -> float:
    """Entropy in nats of the softmax of logits [vocab]; what is -inf adds nothing."""
    shifted = (logits - logits.max()).astype(np.float64)
    weights = np.exp(shifted)
    total = float(weights.sum())
    left = weights > 0
    return math.log(total) - float((weights[left] * shifted[left]).sum()) / total


def top_tokens(logits: Floats, count: int) -> tuple[TopToken, ...]:
    """Return the ``count`` most likely tokens of logits [vocab], best first, lowest id first."""
    count = min(count, len(logits))
    if not count:
        return ()
    total = log_sum_exp(logits)
    best = largest(logits, count)
    return tuple(TopToken(int(i), float(logits[i]) - total) for i in best)


def largest(values: Floats, count: int) -> Any:
    """Indices of the ``count`` largest values, largest first, of equals the lowest index."""
    if count < len(values):
        border = values[np.argpartition(values, -count)[-count:]].min()
        found = np.flatnonzero(values >= border)
    else:
        found = np.arange(len(values))
    return found[np.argsort(-values[found], kind="stable")][:count]


def check_logits(logits: Floats, position: int) -> None:
    """Raise NumericalError if logits [vocab] hold NaN or +inf, or nothing but -inf."""
    # max() is NaN as soon as one logit is, so one number tells.
    if not math.isfinite(logits.max()):
        raise NumericalError(
            f"The model's logits after token {position} are NaN or infinite.",
            "Its weights are damaged, or the precision is too low: try --precision float32.",
        )


def check_shaped(shaped: Floats) -> None:
    """Raise InvalidInput if penalties left no token in logits [vocab], or drove one to infinity."""
    highest = float(shaped.max())
    if highest == -math.inf:
        raise InvalidInput(
            "The settings forbid every token.", "Loosen --logit-bias or --no-repeat-ngram-size."
        )
    if not math.isfinite(highest):
        raise InvalidInput(
            "The settings drive a logit to infinity.",
            "Use a bias and penalties nearer to 0 (and a repetition penalty nearer to 1).",
        )


# -- penalties ------------------------------------------------------------------------------


def penalized_ids(
    params: SamplingParams, history: History, *, eos_ids: Iterable[int] = ()
) -> npt.NDArray[np.int64] | None:
    """The tokens whose logits :func:`penalize` may change, some perhaps twice; None for all."""
    if params.forced_bos_token_id or params.forced_eos_token_id:
        return None
    changed: list[Sequence[int] | npt.NDArray[np.int64]] = [
        [token for token, _ in params.logit_bias],
        [sequence[-1] for sequence, _ in params.sequence_bias],
        [sequence[-1] for sequence in params.bad_words_ids],
        params.suppress_tokens,
        params.begin_suppress_tokens,
        history.repeating() if params.no_repeat_ngram_size else (),
    ]
    if params.repetition_penalty != 1.0:
        changed.append(history.seen)
    if params.presence_penalty or params.frequency_penalty:
        changed.append(history.generated)
    lengths = params.min_new_tokens or params.min_length
    if params.ignore_eos or lengths or params.exponential_decay_length_penalty:
        changed.append(list(eos_ids))
    return np.concatenate([np.asarray(each, np.int64) for each in changed if len(each)] or [_NONE])


def penalize(
    logits: Floats,
    params: SamplingParams,
    history: History,
    *,
    eos_ids: Iterable[int] = (),
    in_place: bool = False,
) -> Floats:
    """Apply what depends on the text so far; logits [vocab] stay as they are unless ``in_place``.

    In order: logit_bias, sequence_bias, repetition_penalty (Keskar et al. 2019,
    arXiv:1909.05858), presence and frequency penalties on what was generated,
    no_repeat_ngram_size, bad_words_ids, min_length and min_new_tokens, which forbid ``eos_ids``,
    the forced tokens, exponential_decay_length_penalty, and the suppressed tokens.
    """
    logits = logits if in_place else logits.copy()
    with np.errstate(all="ignore"):  # told by check_shaped()
        for token, bias in params.logit_bias:
            logits[token] += np.float32(bias)
        for sequence, bias in params.sequence_bias:
            if history.ends_with(sequence[:-1]):
                logits[sequence[-1]] += np.float32(bias)
        if params.repetition_penalty != 1.0 and len(seen := history.seen):
            values = logits[seen]
            factor = np.float32(params.repetition_penalty)
            logits[seen] = np.where(values < 0, values * factor, values / factor)
        if params.presence_penalty or params.frequency_penalty:
            counts = history.generated_counts
            logits[history.generated] -= np.float32(params.presence_penalty) + (
                np.float32(params.frequency_penalty) * counts
            )
    if params.no_repeat_ngram_size and (repeating := history.repeating()):
        logits[repeating] = -math.inf
    for sequence in params.bad_words_ids:
        if history.ends_with(sequence[:-1]):
            logits[sequence[-1]] = -math.inf
    short = history.generated_count < params.min_new_tokens or len(history.ids) < params.min_length
    if params.ignore_eos or short:
        for token in eos_ids:
            logits[token] = -math.inf
    return _force(logits, params, history, eos_ids)


def _force(
    logits: Floats, params: SamplingParams, history: History, eos_ids: Iterable[int]
) -> Floats:
    """Apply what a model's own settings say of certain places; ``logits`` are overwritten."""
    if params.forced_bos_token_id and len(history.ids) == 1:
        logits = _only(logits, params.forced_bos_token_id)
    last = history.generated_count + 1 == params.max_new_tokens
    if params.forced_eos_token_id and last and not params.ignore_eos:
        logits = _only(logits, params.forced_eos_token_id)
    if params.exponential_decay_length_penalty is not None:
        start, factor = params.exponential_decay_length_penalty
        if history.generated_count > start:
            power = factor ** (history.generated_count - start) - 1
            for token in eos_ids:
                if math.isfinite(logits[token]):
                    logits[token] += np.float32(abs(float(logits[token])) * power)
    for token in params.suppress_tokens:
        logits[token] = -math.inf
    # transformers counts a forced first token as part of the prompt.
    alone = len(history.ids) - history.generated_count == 1 and params.forced_bos_token_id
    if history.generated_count == (1 if alone else 0):
        for token in params.begin_suppress_tokens:
            logits[token] = -math.inf
    return logits


def _only(logits: Floats, tokens: Sequence[int]) -> Floats:
    """Logits with which one of these tokens comes next for certain."""
    forced = np.full_like(logits, -math.inf)
    for token in tokens:
        forced[token] = 0
    return forced


# -- filters --------------------------------------------------------------------------------


def apply_temperature(logits: Floats, temperature: float) -> Floats:
    """Divide the logits by a temperature above 0.

    The highest logit is taken from all of them first, which changes no probability, so that the
    smallest temperature ends in the most likely token and the largest in a uniform draw, never
    in infinities.
    """
    divisor = np.float32(min(max(temperature, float(_LIMITS.tiny)), float(_LIMITS.max)))
    with np.errstate(over="ignore"):
        scaled: Floats = (logits - logits.max()) / divisor
    return scaled


def filter_top_k(logits: Floats, top_k: int) -> Floats:
    """Keep the ``top_k`` highest logits (and what ties with the last of them)."""
    if top_k >= len(logits):
        return logits
    return _keep_from(logits, np.partition(logits, -top_k)[-top_k])


def _keep_from(logits: Floats, lowest: Any) -> Floats:
    """Keep logits of at least ``lowest``, a single number."""
    kept: Floats = np.where(logits >= lowest, logits, np.float32(-math.inf))
    return kept


def filter_top_p(logits: Floats, top_p: float) -> Floats:
    """Keep the fewest most likely tokens whose probabilities add up to ``top_p``.

    Nucleus sampling (Holtzman et al. 2019, arXiv:1904.09751), over the whole distribution.
    """
    if len(logits) > _SORTED_WHOLE:
        return _filter_top_p_of_many(logits, top_p)
    order = np.argsort(logits, kind="stable")
    removed = np.cumsum(softmax(logits)[order], dtype=np.float64) <= 1 - top_p
    removed[-1] = False
    filtered = logits.copy()
    filtered[order[removed]] = -math.inf
    return filtered


def _filter_top_p_of_many(logits: Floats, top_p: float) -> Floats:
    """The same without sorting all: only where the border between kept and removed runs.

    What is less likely than an even share of 1 - top_p goes: all of it together is no more than
    that. The bits of a float that is not negative are in its order, so their upper ones part the
    other probabilities into bins of a 64th of an octave. Bins that add up to at most 1 - top_p,
    with what went before, go whole, and the next one is sorted as above.
    """
    probs = softmax(logits)
    removable = 1 - top_p
    likely = np.flatnonzero(probs >= np.float32(removable / len(probs)))
    values = probs[likely]
    bins = values.view(np.int32) >> _BIN_BITS
    lowest = int(bins.min())
    mass = np.bincount(bins - lowest, weights=values).cumsum()
    mass += float(probs.sum(dtype=np.float64)) - mass[-1]
    last = len(mass) - 1
    border = min(int(np.searchsorted(mass, removable, side="right")), last)
    between = likely[bins == border + lowest]
    # By logits: of several with the same probability in float32, all above the cut are kept.
    ranked = between[np.argsort(logits[between], kind="stable")]
    values = probs[ranked]
    below = mass[border] - values.sum(dtype=np.float64)
    cut = int((values.cumsum(dtype=np.float64) + below <= removable).sum())
    if border == last:
        cut = min(cut, len(values) - 1)
    if cut == len(values):  # the sums, in another order, differ in their last bits
        return _keep_from(logits, logits[likely[bins > border + lowest]].min())
    filtered = _keep_from(logits, logits[ranked[cut]])
    if cut and logits[ranked[cut - 1]] == logits[ranked[cut]]:  # a tie: the first ones go
        filtered[ranked[:cut]] = -math.inf
    return filtered


def filter_min_p(logits: Floats, min_p: float) -> Floats:
    """Keep tokens at least ``min_p`` times as likely as the most likely one.

    Nguyen et al. 2024, arXiv:2407.01082. A ratio of probabilities is a difference of logits,
    so nothing needs to be normalised.
    """
    return _keep_from(logits, logits.max() + np.float32(math.log(min_p)))


def filter_typical_p(logits: Floats, typical_p: float) -> Floats:
    """Keep the tokens whose surprisal is nearest to the entropy, up to a mass of ``typical_p``.

    Locally typical sampling (Meister et al. 2022, arXiv:2202.00666).
    """
    surprisal = np.float32(log_sum_exp(logits)) - logits
    distance = np.abs(surprisal - np.float32(entropy(logits)))
    order = np.argsort(distance, kind="stable")
    mass = np.cumsum(softmax(logits)[order], dtype=np.float64)
    last = min(int((mass < typical_p).sum()), len(mass) - 1)
    kept: Floats = np.where(distance > distance[order[last]], np.float32(-math.inf), logits)
    return kept


def filter_top_h(logits: Floats, top_h: float) -> Floats:
    """Keep the most likely tokens while their share of the entropy is at most ``top_h`` of it.

    Top-H decoding (Potraghloo et al. 2025, arXiv:2509.02510), over the 100 likeliest tokens.
    """
    best = largest(logits, min(_TOP_H_TOKENS, len(logits)))
    probabilities = softmax(logits[best]).astype(np.float64)
    surprisal = -np.log(np.where(probabilities > 0, probabilities, 1.0))
    shares = (probabilities * surprisal).cumsum()
    # In float32, as the sums of equal shares meet the bound exactly.
    kept = shares.astype(np.float32) <= np.float32(shares[-1]) * np.float32(top_h)
    kept[0] = True
    filtered = np.full_like(logits, -math.inf)
    filtered[best[kept]] = logits[best[kept]]
    return filtered


def filter_epsilon(logits: Floats, epsilon: float) -> Floats:
    """Keep tokens of at least this probability (Hewitt et al. 2022, arXiv:2210.15191)."""
    return _keep_likely(logits, softmax(logits), epsilon)


def filter_eta(logits: Floats, epsilon: float) -> Floats:
    """Keep tokens of at least min(epsilon, sqrt(epsilon) exp(-entropy)).

    Eta sampling (Hewitt et al. 2022, arXiv:2210.15191).
    """
    bound = min(epsilon, math.sqrt(epsilon) * math.exp(-entropy(logits)))
    return _keep_likely(logits, softmax(logits), bound)


def _keep_likely(logits: Floats, probabilities: Floats, bound: float) -> Floats:
    kept = (probabilities >= np.float32(bound)) | (logits == logits.max())
    filtered: Floats = np.where(kept, logits, np.float32(-math.inf))
    return filtered


def filter_steps(params: SamplingParams) -> list[tuple[str, float, Callable[[Floats], Floats]]]:
    """Return the filters that are on, in transformers' order: name, value, function."""
    steps: list[tuple[str, float, bool, Callable[[Floats, Any], Floats]]] = [
        ("temperature", params.temperature, params.temperature not in (0, 1), apply_temperature),
        ("top_h", params.top_h or 1.0, params.top_h is not None, filter_top_h),
        ("top_k", params.top_k, params.top_k > 0, filter_top_k),
        ("top_p", params.top_p, params.top_p < 1, filter_top_p),
        ("min_p", params.min_p, params.min_p > 0, filter_min_p),
        ("typical_p", params.typical_p, params.typical_p < 1, filter_typical_p),
        ("epsilon_cutoff", params.epsilon_cutoff, params.epsilon_cutoff > 0, filter_epsilon),
        ("eta_cutoff", params.eta_cutoff, params.eta_cutoff > 0, filter_eta),
    ]
    return [
        (name, value, _bound(function, value)) for name, value, active, function in steps if active
    ]


def _bound(function: Callable[[Floats, Any], Floats], value: float) -> Callable[[Floats], Floats]:
    return lambda logits: function(logits, value)


def filter_logits(logits: Floats, params: SamplingParams) -> Floats:
    """Apply temperature and the filters that are on, in transformers' order."""
    for _, _, apply in filter_steps(params):
        logits = apply(logits)
    return logits


# -- the draw -------------------------------------------------------------------------------


def uniform(seed: int, record: int, index: int, position: int) -> float:
    """The random number in [0, 1) that one token of one sequence of one record is drawn with.

    Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): a function
    of the key and the counter, so a token's number depends on nothing that was drawn before it,
    and the same token has the same number whether it is drawn, proposed or drawn again.

    Args:
        seed: What was asked for; the key.
        record: Which record of the whole job.
        index: Which of the record's sequences.
        position: Which token of the continuation, from 0.
    """
    return (_philox(seed, 0, position, index, record) >> 11) * 2.0**-53


def _philox(key0: int, key1: int, *counter: int) -> int:
    """The first of the numbers that numpy.random.Philox gives for a key and a counter.

    Twenty products of integers, which a generator of numpy's takes twenty times as long to set up.
    """
    one, two, three = counter
    c0, c1, c2, c3 = one + 1, two, three, 0  # numpy counts before it draws
    for _ in range(10):
        low, high = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (
            (high >> 64) ^ c1 ^ key0,
            high & _UINT64,
            (low >> 64) ^ c3 ^ key1,
            low & _UINT64,
        )
        key0 = (key0 + 0x9E3779B97F4A7C15) & _UINT64
        key1 = (key1 + 0xBB67AE8584CAA73B) & _UINT64
    return c0


def draw(logits: Floats, number: float) -> int:
    """Draw a token from the softmax of ``logits`` by inverting its distribution function.

    Args:
        logits: [vocab].
        number: In [0, 1).
    """
    return draw_index(softmax(logits), number)


def draw_index(weights: Floats, number: float) -> int:
    """Draw an index with a probability in proportion to weights [n], which are not negative.

    Summed in float64, by blocks: only the block that the number falls into is walked through.
    """
    main = len(weights) // _BLOCK * _BLOCK
    sums = weights[:main].reshape(-1, _BLOCK).sum(axis=1, dtype=np.float64)
    cumulative = np.append(sums, weights[main:].sum(dtype=np.float64)).cumsum()
    target = number * cumulative[-1]
    # side="right": what has probability 0 has an empty interval and is never drawn.
    block = min(int(np.searchsorted(cumulative, target, side="right")), len(cumulative) - 1)
    start = block * _BLOCK
    inside = weights[start : start + _BLOCK].cumsum(dtype=np.float64)
    if block:
        inside += cumulative[block - 1]
    index = start + int(np.searchsorted(inside, target, side="right"))
    if index < min(start + _BLOCK, len(weights)) and weights[index] > 0:
        return index
    # Rounding put the number on a block's very end: the last index that can be drawn up to it.
    return int(np.flatnonzero(weights[: start + _BLOCK])[-1])


def most_likely(logits: Floats) -> int:
    """Return the index of the highest of logits [n], the first where there are several."""
    return int(logits.argmax())

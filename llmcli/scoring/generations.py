"""Whether a model stays calibrated while it writes: entropies of what it generates, by depth.

If its probabilities were right, the entropy of its own continuations would equal its log loss on
held-out ones at the same depth (Braverman et al. 2020; Cao, Valiant, Liang 2025).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmcli.engine.decoder import Decoder
from llmcli.engine.params import SamplingParams
from llmcli.engine.row_stats import row_stats
from llmcli.engine.sampling import check_logits, draw, filter_logits, filter_steps, uniform
from llmcli.scoring.likelihood import Likelihood
from llmcli.scoring.windows import Window

Doubles = npt.NDArray[np.float64]

BLOCK = 64
# Continuations that are decoded next to each other.
_ROWS = 16
_Z = 1.959964


@dataclass(frozen=True, slots=True)
class Continuations:
    """What a model thought of its own continuations, step by step; each [rows, steps], nats.

    Attributes:
        entropy: Of the model's own distribution.
        sampling_entropy: Of the distribution that was drawn from.
        surprisal: -log of the model's own probability of what was drawn.
    """

    entropy: Doubles
    sampling_entropy: Doubles
    surprisal: Doubles


def continuations(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    *,
    steps: int,
    samples: int,
    on_tokens: Callable[[int], None] = lambda count: None,
) -> Continuations:
    """Draw continuations, and measure the distributions on the way.

    The random numbers are those of ``generate --seed``: they depend on the seed, the prompt, which
    of its continuations it is, and the step. An end-of-text token is a token like any other.

    Args:
        decoder: The model.
        prompts: At least one; each with room for ``steps`` tokens.
        params: Temperature and filters; what depends on the text so far is not looked at.
        steps: How many tokens.
        samples: How many continuations; prompts take turns.
        on_tokens: Told how many tokens are drawn.

    Raises:
        NumericalError: the logits are NaN or infinite.
    """
    found = Continuations(*(np.zeros((samples, steps)) for _ in range(3)))
    size = min(_ROWS, decoder.rows_alike or _ROWS)
    for first in range(0, samples, size):
        rows = range(first, min(first + size, samples))
        _draw_together(decoder, prompts, params, rows, found, lambda at: on_tokens(at))
    return found


def _draw_together(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    rows: range,
    found: Continuations,
    on_tokens: Callable[[int], None],
) -> None:
    steps = found.entropy.shape[1]
    slots = [decoder.open() for _ in rows]
    try:
        texts = [(slot, prompts[row % len(prompts)]) for slot, row in zip(slots, rows, strict=True)]
        logits = np.concatenate([decoder.append([text], prompt=True) for text in texts])
        for step in range(steps):
            for text, each in zip(texts, logits, strict=True):
                check_logits(each, len(text[1]) + step)
            shaped = logits
            if filter_steps(params):
                shaped = np.stack([filter_logits(each, params) for each in logits])
            tokens = [
                draw(each, uniform(params.seed or 0, row % len(prompts), row // len(prompts), step))
                for each, row in zip(shaped, rows, strict=True)
            ]
            own = row_stats(logits, tokens)
            drawn = own if shaped is logits else row_stats(shaped, tokens)
            place = slice(rows.start, rows.stop), step
            found.entropy[place] = own["entropy"]
            found.sampling_entropy[place] = drawn["entropy"]
            found.surprisal[place] = own["log_sum_exp"] - own["target"]
            on_tokens(rows.start * steps + len(rows) * (step + 1))
            if step + 1 < steps:
                pairs = zip(slots, tokens, strict=True)
                logits = decoder.append([(slot, [token]) for slot, token in pairs])
    finally:
        for slot in slots:
            decoder.close(slot)


def text_losses(
    likelihood: Likelihood, texts: Sequence[tuple[Sequence[int], Sequence[int]]], *, steps: int
) -> Doubles:
    """The log loss of continuations that people wrote, [texts, steps] nats; NaN behind their ends.

    Args:
        likelihood: The model.
        texts: Prompts and what follows them, at least one token each.
        steps: How many tokens to look at.

    Raises:
        NumericalError: the logits are NaN or infinite.
    """
    found = np.full((len(texts), steps), math.nan)
    windows = (
        (row, Window([*prompt, *after[:steps]], len(prompt), 0))
        for row, (prompt, after) in enumerate(texts)
    )
    for row, _, scores in likelihood.score(windows):
        found[row, : len(scores.logprobs)] = -np.array(scores.logprobs)
    return found


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over rows.

    Attributes:
        value: The mean.
        error: Its standard error; NaN for one row.
    """

    value: float
    error: float

    @classmethod
    def of(cls, values: Doubles) -> Mean:
        """The mean over rows of [rows, steps], NaN left out; all steps of a row are one."""
        kept = values[~np.isnan(values).all(axis=1)]
        if not len(kept):
            return cls(math.nan, math.nan)
        counts = (~np.isnan(kept)).sum(axis=1)
        # Rows that end early weigh less.
        sums = np.nansum(kept, axis=1)
        mean = float(sums.sum() / counts.sum())
        if len(kept) < 2:
            return cls(mean, math.nan)
        spread = float(((sums - mean * counts) ** 2).sum() / (len(kept) - 1))
        return cls(mean, math.sqrt(len(kept) * spread) / float(counts.sum()))

    def __sub__(self, other: Mean) -> Mean:
        """The difference of two means of different rows."""
        return Mean(self.value - other.value, math.hypot(self.error, other.error))

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its interval of 95 %; None where there is no error."""
        if math.isnan(self.error):
            return None
        return self.value - _Z * self.error, self.value + _Z * self.error


def solve(
    function: Callable[[float], float], low: float, high: float, *, close: float, most: int = 10
) -> float | None:
    """A root of a function that changes its sign once, by the Illinois method.

    Args:
        function: What is solved.
        low: Where the search begins.
        high: Where it ends.
        close: How near to 0 is near enough.
        most: How often the function is asked at most.

    Returns:
        The root; None where the ends have the same sign.
    """
    at_low, at_high = function(low), function(high)
    if at_low * at_high > 0:
        return None
    best = (low, at_low) if abs(at_low) < abs(at_high) else (high, at_high)
    side = 0
    for _ in range(most - 2):
        if abs(best[1]) <= close:
            break
        middle = (low * at_high - high * at_low) / (at_high - at_low)
        value = function(middle)
        if abs(value) < abs(best[1]):
            best = middle, value
        if value * at_high > 0:
            high, at_high = middle, value
            at_low = at_low / 2 if side > 0 else at_low
            side = 1
        else:
            low, at_low = middle, value
            at_high = at_high / 2 if side < 0 else at_high
            side = -1
    return best[0]

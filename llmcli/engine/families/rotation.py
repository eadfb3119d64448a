"""Frequencies of rotary positions, as transformers computes them, in float32.

The scalings are those of its ``modeling_rope_utils``: linear, Llama 3's, YaRN (Peng et al. 2023)
and LongRoPE (Ding et al. 2024). What depends on the length of the text is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcli.engine.blueprint import Rotary
from llmcli.engine.families.fields import Fields, Refusal

Frequencies = npt.NDArray[np.float32]
_ALWAYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
# What a scaling reads, and what it may carry without reading.
_KNOWN = {
    "default": set[str](),
    "linear": {"factor"},
    "llama3": {
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
    },
    "yarn": {
        "factor", "attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow",
        "original_max_position_embeddings", "truncate",
    },
    "longrope": {
        "factor", "attention_factor", "short_factor", "long_factor",
        "original_max_position_embeddings",
    },
}  # fmt: skip


def rotary(fields: Fields, *, head_size: int, kind: str | None = None) -> Rotary:
    """The rotation that a config's ``rope_parameters`` describe.

    Args:
        fields: The config; ``max_position_embeddings`` is read too.
        head_size: Dimensions of a head.
        kind: The layers' type, where the parameters differ by it.

    Raises:
        Refusal: a scaling that is unknown here or not the same at all lengths.
    """
    parameters = fields.value("rope_parameters")
    if kind is not None and isinstance(parameters, Mapping):
        parameters = parameters.get(kind)
    if not isinstance(parameters, Mapping):
        fields.refuse("rope_parameters")
    scaling = parameters.get("rope_type", "default")
    given = {name for name, value in parameters.items() if value is not None}
    if scaling not in _KNOWN or given - _KNOWN[scaling] - _ALWAYS:
        fields.refuse("rope_parameters")
    share = parameters.get("partial_rotary_factor", 1.0)
    size = int(head_size * (1.0 if share is None else share))
    if size % 2 or size < 2:
        raise Refusal(f"rotary positions over {size} dimensions of a head")
    context = fields.integer("max_position_embeddings")
    try:
        frequencies, scale = _scaled(scaling, parameters, size, context)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        fields.refuse("rope_parameters")
    return Rotary(frequencies=tuple(map(float, frequencies)), scale=float(np.float32(scale)))


def _scaled(
    scaling: str, parameters: Mapping[str, Any], size: int, context: int
) -> tuple[Frequencies, float]:
    theta = float(parameters["rope_theta"])
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    periods = np.power(np.float32(theta), exponents, dtype=np.float32)
    plain = np.float32(1) / periods
    if scaling == "linear":
        return plain / np.float32(parameters["factor"]), 1.0
    if scaling == "llama3":
        return _llama3(plain, parameters), 1.0
    if scaling == "yarn":
        return _yarn(periods, parameters, size, theta, context)
    if scaling == "longrope":
        return _longrope(periods, parameters, context)
    return plain, 1.0


def _llama3(plain: Frequencies, parameters: Mapping[str, Any]) -> Frequencies:
    factor, original = parameters["factor"], parameters["original_max_position_embeddings"]
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    lengths = np.float32(2 * math.pi) / plain
    scaled = np.where(lengths > original / low, plain / np.float32(factor), plain)
    smooth = (np.float32(original) / lengths - np.float32(low)) / np.float32(high - low)
    between = (1 - smooth) * scaled / np.float32(factor) + smooth * scaled
    medium = (lengths >= original / high) & (lengths <= original / low)
    return np.where(medium, between, scaled).astype(np.float32)


def _yarn(
    periods: Frequencies, parameters: Mapping[str, Any], size: int, theta: float, context: int
) -> tuple[Frequencies, float]:
    original = parameters["original_max_position_embeddings"]
    factor = parameters.get("factor") or context / original
    scale = parameters.get("attention_factor")
    if scale is None:
        by, by_all = parameters.get("mscale"), parameters.get("mscale_all_dim")
        if by and by_all:
            scale = _magnitude(factor, by) / _magnitude(factor, by_all)
        else:
            scale = _magnitude(factor, 1)

    def dimension(turns: float) -> float:
        return size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = dimension(parameters.get("beta_fast") or 32)
    high = dimension(parameters.get("beta_slow") or 1)
    if parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    if low == high:
        high += 0.001
    steps = np.arange(size // 2, dtype=np.float32)
    ramp = np.clip((steps - np.float32(low)) / np.float32(high - low), 0, 1)
    kept = 1 - ramp
    interpolated = np.float32(1) / (np.float32(factor) * periods)
    return interpolated * (1 - kept) + (np.float32(1) / periods) * kept, scale


def _magnitude(factor: float, by: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * by * math.log(factor) + 1.0


def _longrope(
    periods: Frequencies, parameters: Mapping[str, Any], context: int
) -> tuple[Frequencies, float]:
    original = parameters["original_max_position_embeddings"]
    if context > original:
        raise ValueError("the frequencies depend on the length")
    factor = parameters.get("factor") or context / original
    scale = parameters.get("attention_factor")
    if scale is None:
        scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    short = np.asarray(parameters["short_factor"], dtype=np.float32)
    if short.shape != periods.shape:
        raise ValueError("another number of factors")
    return np.float32(1) / (short * periods), scale

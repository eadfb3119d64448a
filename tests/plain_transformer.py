"""A blueprint computed in numpy, float64, one text, no cache: slow and easy to check by eye."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from llmcli.engine.blueprint import Blueprint, Layer

Array = Any


def logits(
    blueprint: Blueprint,
    weights: Mapping[str, Array],
    tokens: list[int],
    *,
    integer_cache: bool = False,
) -> Array:
    """Logits after each token, [time, vocab]; keys and values may be rounded to 8 bits."""
    final = hidden(blueprint, weights, tokens, integer_cache=integer_cache)
    head = weights["embedding.weight"] if blueprint.tied else weights["head.weight"]
    scores = final @ head.astype(np.float64).T + weights.get("head.bias", 0)
    return _capped(scores, blueprint.logit_cap)


def hidden(
    blueprint: Blueprint,
    weights: Mapping[str, Array],
    tokens: list[int],
    *,
    integer_cache: bool = False,
) -> Array:
    """What the head reads, [time, width]."""
    x = weights["embedding.weight"][tokens].astype(np.float64) * blueprint.embedding_scale
    if blueprint.positions:
        first = blueprint.position_offset
        x = x + weights["positions.weight"][first : first + len(tokens)]
    if blueprint.embedding_norm:
        x = _norm(blueprint, weights, "embedding_norm", x)
    for index, layer in enumerate(blueprint.layers):
        x = _layer(blueprint, layer, weights, f"layers.{index}.", x, integer_cache)
    return _norm(blueprint, weights, "final_norm", x) if blueprint.final_norm else x


def _layer(
    blueprint: Blueprint,
    layer: Layer,
    weights: Mapping[str, Array],
    at: str,
    x: Array,
    integer_cache: bool,
) -> Array:
    def normed(role: str, y: Array) -> Array:
        name = f"{at}{role}"
        return _norm(blueprint, weights, name, y) if f"{name}.weight" in weights else y

    read = normed("attention_norm", x)
    attended = _attention(blueprint, layer, weights, at, read, integer_cache)
    attended = normed("attention_post_norm", attended)
    if blueprint.parallel:
        second = read if blueprint.shared_norm else normed("mlp_norm", x)
        return x + attended + _feed_forward(blueprint, weights, at, second)
    x = x + attended
    fed = _feed_forward(blueprint, weights, at, normed("mlp_norm", x))
    return x + normed("mlp_post_norm", fed)


def _attention(
    blueprint: Blueprint,
    layer: Layer,
    weights: Mapping[str, Array],
    at: str,
    x: Array,
    integer_cache: bool,
) -> Array:
    time, size = len(x), blueprint.head_size
    heads, groups = blueprint.heads, blueprint.kv_heads
    qkv = _linear(weights, f"{at}qkv", x)
    q, k, v = np.split(qkv, [heads * size, (heads + groups) * size], axis=1)
    if kind := blueprint.query_key_norm:
        q = _head_norm(blueprint, weights, f"{at}query_norm", q, kind)
        k = _head_norm(blueprint, weights, f"{at}key_norm", k, kind)
    q, k, v = (each.reshape(time, -1, size) for each in (q, k, v))
    if layer.rotary is not None:
        turn = blueprint.rotaries[layer.rotary]
        angles = np.arange(time)[:, None] * np.array(turn.frequencies)
        cosine, sine = np.cos(angles)[:, None] * turn.scale, np.sin(angles)[:, None] * turn.scale
        q, k = (_turned(each, cosine, sine) for each in (q, k))
    if integer_cache:
        k = np.concatenate([_rounded(k[..., i : i + 32]) for i in range(0, size, 32)], axis=-1)
        v = _rounded(v)
    k, v = (np.repeat(each, heads // groups, axis=1) for each in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) * layer.scale
    scores = _capped(scores, blueprint.attention_cap)
    distance = np.arange(time)[:, None] - np.arange(time)[None]
    if blueprint.alibi:
        scores = scores - np.array(blueprint.alibi)[:, None, None] * distance
    unseen = distance < 0
    if layer.window is not None:
        unseen |= distance >= layer.window
    scores = np.where(unseen, -np.inf, scores)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    mixed = np.einsum("hqk,khd->qhd", shares, v).reshape(time, heads * size)
    return _linear(weights, f"{at}attention_out", mixed)


def _rounded(x: Array) -> Array:
    """To multiples of a 127th of the largest of the last axis."""
    unit = np.abs(x).max(axis=-1, keepdims=True) / 127
    return np.rint(x / np.where(unit > 0, unit, 1)) * unit


def _turned(x: Array, cosine: Array, sine: Array) -> Array:
    half = cosine.shape[-1]
    first, second, rest = np.split(x, [half, 2 * half], axis=-1)
    return np.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine, rest], axis=-1
    )


def _feed_forward(blueprint: Blueprint, weights: Mapping[str, Array], at: str, x: Array) -> Array:
    up = _linear(weights, f"{at}up", x)
    if blueprint.gated:
        up = _active(blueprint.activation, _linear(weights, f"{at}gate", x)) * up
    else:
        up = _active(blueprint.activation, up)
    return _linear(weights, f"{at}down", up)


def _active(name: str, x: Array) -> Array:
    if name == "relu":
        return np.maximum(x, 0)
    if name == "tanh":
        return np.tanh(x)
    if name == "silu":
        return x / (1 + np.exp(-x))
    if name == "gelu_quick":
        return x / (1 + np.exp(-1.702 * x))
    if name == "gelu_tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def _linear(weights: Mapping[str, Array], name: str, x: Array) -> Array:
    product = x @ weights[f"{name}.weight"].astype(np.float64).T
    return product + weights[f"{name}.bias"] if f"{name}.bias" in weights else product


def _norm(blueprint: Blueprint, weights: Mapping[str, Array], name: str, x: Array) -> Array:
    bias = weights.get(f"{name}.bias", 0)
    return _standard(x, blueprint.norm, blueprint.epsilon) * weights[f"{name}.weight"] + bias


def _head_norm(
    blueprint: Blueprint, weights: Mapping[str, Array], name: str, x: Array, kind: str
) -> Array:
    split = x if blueprint.query_key_norm_whole else x.reshape(len(x), -1, blueprint.head_size)
    flat = _standard(split, kind, blueprint.epsilon).reshape(x.shape)
    return flat * weights[f"{name}.weight"] + weights.get(f"{name}.bias", 0)


def _standard(x: Array, kind: str, epsilon: float) -> Array:
    if kind == "layer":
        x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon)


def _capped(x: Array, cap: float) -> Array:
    return cap * np.tanh(x / cap) if cap else x

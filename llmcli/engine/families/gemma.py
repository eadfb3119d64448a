"""Gemma 1, 2 and 3 (text): norms with an offset, scaled embeddings, caps, two rotations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llmcli.engine.blueprint import Blueprint, Layer
from llmcli.engine.families.fields import Fields
from llmcli.engine.families.llama import NAMES, windows
from llmcli.engine.families.rotation import rotary
from llmcli.engine.families.weights import Names

_NAMES = replace(NAMES, norm_offset=1.0)
_FOUR_NORMS = replace(
    _NAMES,
    attention_post_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
)


def _base(fields: Fields, activation: str, kinds: tuple[str | None, ...] = (None,)) -> Blueprint:
    width, size = fields.integer("hidden_size"), fields.integer("head_dim")
    fields.only("use_bidirectional_attention", False)
    fields.skip("attention_bias")
    layer = Layer(rotary=0, window=None, scale=size**-0.5)
    return Blueprint(
        family=str(fields.value("model_type")),
        vocab_size=fields.integer("vocab_size"),
        width=width,
        inner=fields.integer("intermediate_size"),
        heads=fields.integer("num_attention_heads"),
        kv_heads=fields.integer("num_key_value_heads"),
        head_size=size,
        layers=(layer,) * fields.integer("num_hidden_layers"),
        norm="rms",
        epsilon=fields.number("rms_norm_eps"),
        activation=fields.activation(activation),
        gated=True,
        rotaries=tuple(rotary(fields, head_size=size, kind=kind) for kind in kinds),
        tied=fields.flag("tie_word_embeddings"),
        embedding_scale=float(np.float32(width**0.5)),
    )


def gemma(fields: Fields) -> tuple[Blueprint, Names]:
    """GemmaForCausalLM."""
    blueprint = _base(fields, "hidden_act")
    fields.skip("hidden_activation")  # of older files; transformers reads hidden_act
    return blueprint, _NAMES


def gemma2(fields: Fields) -> tuple[Blueprint, Names]:
    """Gemma2ForCausalLM."""
    return _four_norms(fields), _FOUR_NORMS


def gemma3(fields: Fields) -> tuple[Blueprint, Names]:
    """Gemma3ForCausalLM."""
    blueprint = _four_norms(fields, ("full_attention", "sliding_attention"))
    fields.only("attn_logit_softcapping")  # which its attention reads and does not apply
    fields.skip("_sliding_window_pattern", "sliding_window_pattern")
    layers = tuple(
        replace(layer, rotary=0 if layer.window is None else 1) for layer in blueprint.layers
    )
    names = replace(_FOUR_NORMS, query_norm="self_attn.q_norm", key_norm="self_attn.k_norm")
    return replace(blueprint, layers=layers, query_key_norm="rms"), names


def _four_norms(fields: Fields, kinds: tuple[str | None, ...] = (None,)) -> Blueprint:
    blueprint = _base(fields, "hidden_activation", kinds)
    fields.skip("cache_implementation", "hidden_act")
    scale = fields.number("query_pre_attn_scalar") ** -0.5
    widths = windows(fields, len(blueprint.layers))
    return replace(
        blueprint,
        layers=tuple(Layer(rotary=0, window=width, scale=scale) for width in widths),
        placement="both",
        attention_cap=fields.number("attn_logit_softcapping", 0.0),
        logit_cap=fields.number("final_logit_softcapping", 0.0),
    )

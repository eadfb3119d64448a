"""Phi: attention and feed-forward side by side under one norm. Phi 3: Llama with fused layers."""

from __future__ import annotations

from dataclasses import replace

from llmcli.engine.blueprint import Blueprint, Layer
from llmcli.engine.families.fields import Fields
from llmcli.engine.families.llama import NAMES, base, with_windows
from llmcli.engine.families.rotation import rotary
from llmcli.engine.families.weights import Names

_PHI = Names(
    embedding="model.embed_tokens",
    layers="model.layers.{}.",
    attention_norm="input_layernorm",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_out="self_attn.dense",
    up="mlp.fc1",
    down="mlp.fc2",
    final_norm="model.final_layernorm",
)


def phi(fields: Fields) -> tuple[Blueprint, Names]:
    """PhiForCausalLM."""
    width, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    size = fields.integer("head_dim", width // heads)
    normed = fields.flag("qk_layernorm")
    fields.skip("partial_rotary_factor")  # which rope_parameters has
    blueprint = Blueprint(
        family="phi",
        vocab_size=fields.integer("vocab_size"),
        width=width,
        inner=fields.integer("intermediate_size"),
        heads=heads,
        kv_heads=fields.integer("num_key_value_heads", heads),
        head_size=size,
        layers=(Layer(rotary=0, window=None, scale=size**-0.5),)
        * fields.integer("num_hidden_layers"),
        norm="layer",
        epsilon=fields.number("layer_norm_eps"),
        parallel=True,
        shared_norm=True,
        query_key_norm="layer" if normed else None,
        activation=fields.activation("hidden_act"),
        rotaries=(rotary(fields, head_size=size),),
        tied=fields.flag("tie_word_embeddings"),
    )
    if normed:
        names = replace(_PHI, query_norm="self_attn.q_layernorm", key_norm="self_attn.k_layernorm")
        return blueprint, names
    return blueprint, _PHI


def phi3(fields: Fields) -> tuple[Blueprint, Names]:
    """Phi3ForCausalLM."""
    blueprint = base(fields)
    fields.skip("original_max_position_embeddings", "partial_rotary_factor")
    width = fields.value("sliding_window")
    widths = [None if width is None else fields.integer("sliding_window")] * len(blueprint.layers)
    names = replace(NAMES, qkv="self_attn.qkv_proj", gate="", up="", gate_up="mlp.gate_up_proj")
    return with_windows(blueprint, widths), names

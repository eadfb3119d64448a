"""StableLM: Llama with layer norms, a part of each head turning, perhaps side by side."""

from __future__ import annotations

from dataclasses import replace

from llmcli.engine.blueprint import Blueprint, Layer
from llmcli.engine.families.fields import Fields
from llmcli.engine.families.llama import NAMES
from llmcli.engine.families.rotation import rotary
from llmcli.engine.families.weights import Names


def stablelm(fields: Fields) -> tuple[Blueprint, Names]:
    """StableLmForCausalLM."""
    width, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    size = width // heads
    parallel, normed = fields.flag("use_parallel_residual"), fields.flag("qk_layernorm")
    fields.skip("use_qkv_bias", "partial_rotary_factor")
    blueprint = Blueprint(
        family="stablelm",
        vocab_size=fields.integer("vocab_size"),
        width=width,
        inner=fields.integer("intermediate_size"),
        heads=heads,
        kv_heads=fields.integer("num_key_value_heads"),
        head_size=size,
        layers=(Layer(rotary=0, window=None, scale=size**-0.5),)
        * fields.integer("num_hidden_layers"),
        norm="layer",
        epsilon=fields.number("layer_norm_eps"),
        parallel=parallel,
        shared_norm=parallel,
        query_key_norm="layer" if normed else None,
        activation=fields.activation("hidden_act"),
        gated=True,
        rotaries=(rotary(fields, head_size=size),),
        tied=fields.flag("tie_word_embeddings"),
    )
    names = replace(NAMES, mlp_norm="") if parallel else NAMES
    if normed:
        names = replace(names, query_norm="self_attn.q_layernorm", key_norm="self_attn.k_layernorm")
    return blueprint, names

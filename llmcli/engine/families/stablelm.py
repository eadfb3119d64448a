"""StableLM: Llama with layer norms, a part of each head turning, perhaps side by side."""

from __future__ import annotations

from dataclasses import replace

from llmcli.engine.blueprint import Blueprint
from llmcli.engine.families.fields import Fields
from llmcli.engine.families.llama import NAMES, base
from llmcli.engine.families.weights import Names


def stablelm(fields: Fields) -> tuple[Blueprint, Names]:
    """StableLmForCausalLM."""
    parallel, normed = fields.flag("use_parallel_residual"), fields.flag("qk_layernorm")
    fields.skip("use_qkv_bias", "partial_rotary_factor")
    blueprint = replace(
        base(fields, epsilon="layer_norm_eps"),
        norm="layer",
        parallel=parallel,
        shared_norm=parallel,
        query_key_norm="layer" if normed else None,
    )
    names = replace(NAMES, mlp_norm="") if parallel else NAMES
    if normed:
        names = replace(names, query_norm="self_attn.q_layernorm", key_norm="self_attn.k_layernorm")
    return blueprint, names

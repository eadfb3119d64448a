"""Phi: attention and feed-forward side by side under one norm. Phi 3: Llama with fused layers."""

from __future__ import annotations

from dataclasses import replace

from llmcli.engine.blueprint import Blueprint
from llmcli.engine.families.fields import Fields
from llmcli.engine.families.llama import NAMES, base, with_one_window
from llmcli.engine.families.weights import Names

_PHI = replace(
    NAMES,
    attention_out="self_attn.dense",
    mlp_norm="",
    gate="",
    up="mlp.fc1",
    down="mlp.fc2",
    final_norm="model.final_layernorm",
)


def phi(fields: Fields) -> tuple[Blueprint, Names]:
    """PhiForCausalLM."""
    normed = fields.flag("qk_layernorm")
    fields.skip("partial_rotary_factor")  # which rope_parameters has
    blueprint = replace(
        base(fields, epsilon="layer_norm_eps"),
        norm="layer",
        gated=False,
        parallel=True,
        shared_norm=True,
        query_key_norm="layer" if normed else None,
    )
    if normed:
        names = replace(_PHI, query_norm="self_attn.q_layernorm", key_norm="self_attn.k_layernorm")
        return blueprint, names
    return blueprint, _PHI


def phi3(fields: Fields) -> tuple[Blueprint, Names]:
    """Phi3ForCausalLM."""
    blueprint = base(fields)
    fields.skip("original_max_position_embeddings", "partial_rotary_factor")
    names = replace(NAMES, qkv="self_attn.qkv_proj", gate="", up="", gate_up="mlp.gate_up_proj")
    return with_one_window(fields, blueprint), names

"""OLMo 2: norms on what a sub-layer gives; queries and keys normalised over all heads."""

from __future__ import annotations

from dataclasses import replace

from llmcli.engine.blueprint import Blueprint
from llmcli.engine.families.fields import Fields
from llmcli.engine.families.llama import NAMES, base
from llmcli.engine.families.weights import Names


def olmo2(fields: Fields) -> tuple[Blueprint, Names]:
    """Olmo2ForCausalLM."""
    blueprint = replace(
        base(fields), placement="after", query_key_norm="rms", query_key_norm_whole=True
    )
    names = replace(
        NAMES,
        attention_norm="",
        attention_post_norm="post_attention_layernorm",
        mlp_norm="",
        mlp_post_norm="post_feedforward_layernorm",
        query_norm="self_attn.q_norm",
        key_norm="self_attn.k_norm",
    )
    return blueprint, names

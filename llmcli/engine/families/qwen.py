"""Qwen 2 and Qwen 3: Llama with biases, or with norms of queries and keys."""

from __future__ import annotations

from dataclasses import replace

from llmcli.engine.blueprint import Blueprint
from llmcli.engine.families.fields import Fields
from llmcli.engine.families.llama import NAMES, base, windows, with_windows
from llmcli.engine.families.weights import Names


def qwen2(fields: Fields) -> tuple[Blueprint, Names]:
    """Qwen2ForCausalLM."""
    blueprint = base(fields)
    fields.skip("use_sliding_window", "max_window_layers")  # layer_types says what they come to
    return with_windows(blueprint, windows(fields, len(blueprint.layers))), NAMES


def qwen3(fields: Fields) -> tuple[Blueprint, Names]:
    """Qwen3ForCausalLM."""
    blueprint, _ = qwen2(fields)
    names = replace(NAMES, query_norm="self_attn.q_norm", key_norm="self_attn.k_norm")
    return replace(blueprint, query_key_norm="rms"), names

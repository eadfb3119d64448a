"""StarCoder 2: layer norms and a plain feed-forward network over Llama's attention."""

from __future__ import annotations

from dataclasses import replace

from llmcli.engine.blueprint import Blueprint
from llmcli.engine.families.fields import Fields
from llmcli.engine.families.llama import NAMES, base, with_one_window
from llmcli.engine.families.weights import Names


def starcoder2(fields: Fields) -> tuple[Blueprint, Names]:
    """Starcoder2ForCausalLM."""
    fields.skip("use_bias", "mlp_type", "norm_type")
    blueprint = replace(base(fields, epsilon="norm_epsilon"), norm="layer", gated=False)
    return with_one_window(fields, blueprint), replace(
        NAMES, gate="", up="mlp.c_fc", down="mlp.c_proj"
    )

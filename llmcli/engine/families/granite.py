"""Granite: Llama with four factors."""

from __future__ import annotations

from dataclasses import replace

from llmcli.engine.blueprint import Blueprint
from llmcli.engine.families.fields import Fields
from llmcli.engine.families.llama import NAMES, base
from llmcli.engine.families.weights import Names


def granite(fields: Fields) -> tuple[Blueprint, Names]:
    """GraniteForCausalLM."""
    blueprint = base(fields)
    scale = fields.number("attention_multiplier")
    names = replace(
        NAMES,
        residual_scale=fields.number("residual_multiplier"),
        logit_scale=1 / fields.number("logits_scaling"),
    )
    return replace(
        blueprint,
        layers=tuple(replace(layer, scale=scale) for layer in blueprint.layers),
        embedding_scale=fields.number("embedding_multiplier"),
    ), names

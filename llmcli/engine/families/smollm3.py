"""SmolLM 3: Llama with layers that do not turn."""

from __future__ import annotations

from dataclasses import replace

from llmcli.engine.blueprint import Blueprint
from llmcli.engine.families.fields import Fields
from llmcli.engine.families.llama import NAMES, base, windows, with_windows
from llmcli.engine.families.weights import Names


def smollm3(fields: Fields) -> tuple[Blueprint, Names]:
    """SmolLM3ForCausalLM."""
    blueprint = base(fields)
    fields.skip("use_sliding_window", "no_rope_layer_interval")
    turning = fields.value("no_rope_layers")  # 1 where a layer does turn
    if len(turning) != len(blueprint.layers):
        fields.refuse("no_rope_layers")
    pairs = zip(blueprint.layers, turning, strict=True)
    layers = tuple(layer if turns else replace(layer, rotary=None) for layer, turns in pairs)
    blueprint = replace(blueprint, layers=layers)
    return with_windows(blueprint, windows(fields, len(layers))), NAMES

"""Llama and what is built like it: Mistral, Qwen 2 and 3, SmolLM 3, Phi 3, Granite, OLMo 2."""

from __future__ import annotations

from dataclasses import replace

from llmcli.engine.blueprint import Blueprint, Layer
from llmcli.engine.families.fields import Fields
from llmcli.engine.families.rotation import rotary
from llmcli.engine.families.weights import Names

NAMES = Names(
    embedding="model.embed_tokens",
    layers="model.layers.{}.",
    attention_norm="input_layernorm",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_out="self_attn.o_proj",
    mlp_norm="post_attention_layernorm",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
    final_norm="model.norm",
)


def windows(fields: Fields, layers: int) -> list[int | None]:
    """The window of each layer, of ``layer_types`` and ``sliding_window``."""
    types = fields.value("layer_types", ["full_attention"] * layers)
    if len(types) != layers or set(types) - {"full_attention", "sliding_attention"}:
        fields.refuse("layer_types")
    if "sliding_attention" not in types:
        fields.skip("sliding_window")
        return [None] * layers
    width = fields.integer("sliding_window")
    return [width if each == "sliding_attention" else None for each in types]


def base(fields: Fields, *, epsilon: str = "rms_norm_eps") -> Blueprint:
    """What all of them have in common, of the fields that all of them have.

    Args:
        fields: Of the config.
        epsilon: The field with the norms' epsilon.
    """
    width, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    size = fields.integer("head_dim", width // heads)
    layers = fields.integer("num_hidden_layers")
    fields.skip("pretraining_tp", "attention_bias", "mlp_bias")  # what there is, is in the weights
    return Blueprint(
        family=str(fields.value("model_type")),
        vocab_size=fields.integer("vocab_size"),
        width=width,
        inner=fields.integer("intermediate_size"),
        heads=heads,
        kv_heads=fields.integer("num_key_value_heads", heads),
        head_size=size,
        layers=tuple(Layer(rotary=0, window=None, scale=size**-0.5) for _ in range(layers)),
        norm="rms",
        epsilon=fields.number(epsilon),
        activation=fields.activation("hidden_act"),
        gated=True,
        rotaries=(rotary(fields, head_size=size),),
        tied=fields.flag("tie_word_embeddings"),
    )


def with_windows(blueprint: Blueprint, widths: list[int | None]) -> Blueprint:
    """The blueprint with a window for each layer."""
    pairs = zip(blueprint.layers, widths, strict=True)
    return replace(blueprint, layers=tuple(replace(each, window=width) for each, width in pairs))


def with_one_window(fields: Fields, blueprint: Blueprint) -> Blueprint:
    """The blueprint with ``sliding_window``, where it is set, for all layers."""
    width = fields.value("sliding_window")
    widths = [None if width is None else fields.integer("sliding_window")]
    return with_windows(blueprint, widths * len(blueprint.layers))


def llama(fields: Fields) -> tuple[Blueprint, Names]:
    """LlamaForCausalLM."""
    fields.only("pretraining_tp", 1)
    return base(fields), NAMES


def mistral(fields: Fields) -> tuple[Blueprint, Names]:
    """MistralForCausalLM: one window for all layers."""
    return with_one_window(fields, base(fields)), NAMES

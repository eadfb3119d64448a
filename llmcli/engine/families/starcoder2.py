"""StarCoder 2: layer norms and a plain feed-forward network over Llama's attention."""

from __future__ import annotations

from dataclasses import replace

from llmcli.engine.blueprint import Blueprint, Layer
from llmcli.engine.families.fields import Fields
from llmcli.engine.families.llama import NAMES
from llmcli.engine.families.rotation import rotary
from llmcli.engine.families.weights import Names


def starcoder2(fields: Fields) -> tuple[Blueprint, Names]:
    """Starcoder2ForCausalLM."""
    width, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    size = fields.integer("head_dim", width // heads)
    sliding = fields.value("sliding_window")
    window = None if sliding is None else fields.integer("sliding_window")
    fields.skip("use_bias", "mlp_type", "norm_type")
    blueprint = Blueprint(
        family="starcoder2",
        vocab_size=fields.integer("vocab_size"),
        width=width,
        inner=fields.integer("intermediate_size"),
        heads=heads,
        kv_heads=fields.integer("num_key_value_heads"),
        head_size=size,
        layers=(Layer(rotary=0, window=window, scale=size**-0.5),)
        * fields.integer("num_hidden_layers"),
        norm="layer",
        epsilon=fields.number("norm_epsilon"),
        activation=fields.activation("hidden_act"),
        rotaries=(rotary(fields, head_size=size),),
        tied=fields.flag("tie_word_embeddings"),
    )
    return blueprint, replace(NAMES, gate="", up="mlp.c_fc", down="mlp.c_proj")

"""GPT-NeoX and Pythia: a part of each head turns; attention and feed-forward side by side."""

from __future__ import annotations

from llmcli.engine.blueprint import Blueprint, Layer
from llmcli.engine.families.fields import Fields
from llmcli.engine.families.rotation import rotary
from llmcli.engine.families.weights import Names

NAMES = Names(
    embedding="gpt_neox.embed_in",
    layers="gpt_neox.layers.{}.",
    attention_norm="input_layernorm",
    qkv="attention.query_key_value",
    qkv_layout="grouped",
    attention_out="attention.dense",
    mlp_norm="post_attention_layernorm",
    up="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
    final_norm="gpt_neox.final_layer_norm",
)


def gpt_neox(fields: Fields) -> tuple[Blueprint, Names]:
    """GPTNeoXForCausalLM."""
    width, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    size = width // heads
    fields.only("is_decoder", False, True)
    fields.skip("attention_bias", "rotary_pct", "rotary_emb_base")
    return Blueprint(
        family="gpt_neox",
        vocab_size=fields.integer("vocab_size"),
        width=width,
        inner=fields.integer("intermediate_size"),
        heads=heads,
        kv_heads=heads,
        head_size=size,
        layers=(Layer(rotary=0, window=None, scale=size**-0.5),)
        * fields.integer("num_hidden_layers"),
        norm="layer",
        epsilon=fields.number("layer_norm_eps"),
        parallel=fields.flag("use_parallel_residual", True),
        activation=fields.activation("hidden_act"),
        rotaries=(rotary(fields, head_size=size),),
        tied=fields.flag("tie_word_embeddings"),
    ), NAMES

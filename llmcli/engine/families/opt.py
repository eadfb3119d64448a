"""OPT: GPT-2 with positions from row 2 on and weights [out, in]."""

from __future__ import annotations

from dataclasses import replace

from llmcli.engine.blueprint import Blueprint, Layer
from llmcli.engine.families.fields import Fields
from llmcli.engine.families.weights import Names

_NAMES = Names(
    embedding="model.decoder.embed_tokens",
    positions="model.decoder.embed_positions",
    layers="model.decoder.layers.{}.",
    attention_norm="self_attn_layer_norm",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_out="self_attn.out_proj",
    mlp_norm="final_layer_norm",
    up="fc1",
    down="fc2",
    final_norm="model.decoder.final_layer_norm",
)


def opt(fields: Fields) -> tuple[Blueprint, Names]:
    """OPTForCausalLM; norms after the sum, as the 350M one has, and projections are refused."""
    width, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    size = width // heads
    fields.only("do_layer_norm_before", True)
    fields.only("word_embed_proj_dim", width)
    fields.only("layer_norm_elementwise_affine", True)
    fields.skip("enable_bias", "activation_dropout")
    final_norm = not fields.flag("_remove_final_layer_norm")
    blueprint = Blueprint(
        family="opt",
        vocab_size=fields.integer("vocab_size"),
        width=width,
        inner=fields.integer("ffn_dim"),
        heads=heads,
        kv_heads=heads,
        head_size=size,
        layers=(Layer(rotary=None, window=None, scale=size**-0.5),)
        * fields.integer("num_hidden_layers"),
        norm="layer",
        epsilon=1e-5,
        activation=fields.activation("activation_function"),
        positions=fields.integer("max_position_embeddings"),
        position_offset=2,
        final_norm=final_norm,
        tied=fields.flag("tie_word_embeddings", True),
    )
    return blueprint, _NAMES if final_norm else replace(_NAMES, final_norm="")

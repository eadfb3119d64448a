"""GPT-2 (Radford et al. 2019): learned positions, weights [in, out]."""

from __future__ import annotations

from llmcli.engine.blueprint import Blueprint, Layer
from llmcli.engine.families.fields import Fields
from llmcli.engine.families.weights import Names

NAMES = Names(
    embedding="transformer.wte",
    positions="transformer.wpe",
    layers="transformer.h.{}.",
    attention_norm="ln_1",
    qkv="attn.c_attn",
    attention_out="attn.c_proj",
    mlp_norm="ln_2",
    up="mlp.c_fc",
    down="mlp.c_proj",
    final_norm="transformer.ln_f",
    transposed=True,
)


def gpt2(fields: Fields) -> tuple[Blueprint, Names]:
    """GPT2LMHeadModel."""
    width, heads = fields.integer("n_embd"), fields.integer("n_head")
    fields.only("add_cross_attention", False)
    fields.skip("reorder_and_upcast_attn", "n_ctx")  # the same numbers in another order
    size = width // heads
    scale = size**-0.5 if fields.flag("scale_attn_weights", True) else 1.0
    by_layer = fields.flag("scale_attn_by_inverse_layer_idx")
    return Blueprint(
        family="gpt2",
        vocab_size=fields.integer("vocab_size"),
        width=width,
        inner=fields.integer("n_inner", 4 * width),
        heads=heads,
        kv_heads=heads,
        head_size=size,
        layers=tuple(
            Layer(rotary=None, window=None, scale=scale / (index + 1) if by_layer else scale)
            for index in range(fields.integer("n_layer"))
        ),
        norm="layer",
        epsilon=fields.number("layer_norm_epsilon"),
        activation=fields.activation("activation_function"),
        positions=fields.integer("n_positions"),
        tied=fields.flag("tie_word_embeddings", True),
    ), NAMES

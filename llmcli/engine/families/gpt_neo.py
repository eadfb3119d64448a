"""GPT-Neo: GPT-2 with unscaled attention that sees a window in every other layer."""

from __future__ import annotations

from llmcli.engine.blueprint import Blueprint, Layer
from llmcli.engine.families.fields import Fields
from llmcli.engine.families.weights import Names

NAMES = Names(
    embedding="transformer.wte",
    positions="transformer.wpe",
    layers="transformer.h.{}.",
    attention_norm="ln_1",
    qkv=("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"),
    attention_out="attn.attention.out_proj",
    mlp_norm="ln_2",
    up="mlp.c_fc",
    down="mlp.c_proj",
    final_norm="transformer.ln_f",
)


def gpt_neo(fields: Fields) -> tuple[Blueprint, Names]:
    """GPTNeoForCausalLM."""
    width, heads = fields.integer("hidden_size"), fields.integer("num_heads")
    count, window = fields.integer("num_layers"), fields.integer("window_size")
    kinds = fields.value("attention_layers", [])
    if len(kinds) != count or set(kinds) - {"global", "local"}:
        fields.refuse("attention_layers")
    fields.skip("attention_types")
    return Blueprint(
        family="gpt_neo",
        vocab_size=fields.integer("vocab_size"),
        width=width,
        inner=fields.integer("intermediate_size", 4 * width),
        heads=heads,
        kv_heads=heads,
        head_size=width // heads,
        layers=tuple(
            Layer(rotary=None, window=window if kind == "local" else None, scale=1.0)
            for kind in kinds
        ),
        norm="layer",
        epsilon=fields.number("layer_norm_epsilon"),
        activation=fields.activation("activation_function"),
        positions=fields.integer("max_position_embeddings"),
        tied=fields.flag("tie_word_embeddings", True),
    ), NAMES

"""GPT-J: neighbours turn as pairs; attention and feed-forward side by side under one norm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llmcli.engine.blueprint import Blueprint, Layer, Rotary
from llmcli.engine.families.fields import Fields
from llmcli.engine.families.weights import Names

_NAMES = Names(
    embedding="transformer.wte",
    layers="transformer.h.{}.",
    attention_norm="ln_1",
    qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    attention_out="attn.out_proj",
    up="mlp.fc_in",
    down="mlp.fc_out",
    final_norm="transformer.ln_f",
)


def gptj(fields: Fields) -> tuple[Blueprint, Names]:
    """GPTJForCausalLM."""
    width, heads = fields.integer("n_embd"), fields.integer("n_head")
    size, turning = width // heads, fields.integer("rotary_dim")
    fields.skip("n_positions", "rotary", "scale_attn_weights", "n_ctx")
    if turning % 2 or turning > size:
        fields.refuse("rotary_dim")
    powers = np.arange(0, turning, 2, dtype=np.float32) / np.float32(turning)
    frequencies = np.float32(1) / np.power(np.float32(10000), powers, dtype=np.float32)
    blueprint = Blueprint(
        family="gptj",
        vocab_size=fields.integer("vocab_size"),
        width=width,
        inner=fields.integer("n_inner", 4 * width),
        heads=heads,
        kv_heads=heads,
        head_size=size,
        layers=(Layer(rotary=0, window=None, scale=size**-0.5),) * fields.integer("n_layer"),
        norm="layer",
        epsilon=fields.number("layer_norm_epsilon"),
        parallel=True,
        shared_norm=True,
        activation=fields.activation("activation_function"),
        rotaries=(Rotary(frequencies=tuple(map(float, frequencies))),),
        tied=fields.flag("tie_word_embeddings"),
    )
    return blueprint, replace(_NAMES, interleaved=turning)

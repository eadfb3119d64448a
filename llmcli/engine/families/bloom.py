"""BLOOM: ALiBi, a norm after the embedding."""

from __future__ import annotations

import math

import numpy as np

from llmcli.engine.blueprint import Blueprint, Layer
from llmcli.engine.families.fields import Fields
from llmcli.engine.families.weights import Names

NAMES = Names(
    embedding="transformer.word_embeddings",
    embedding_norm="transformer.word_embeddings_layernorm",
    layers="transformer.h.{}.",
    attention_norm="input_layernorm",
    qkv="self_attention.query_key_value",
    qkv_layout="grouped",
    attention_out="self_attention.dense",
    mlp_norm="post_attention_layernorm",
    up="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
    final_norm="transformer.ln_f",
)


def bloom(fields: Fields) -> tuple[Blueprint, Names]:
    """BloomForCausalLM."""
    width, heads = fields.integer("hidden_size"), fields.integer("n_head")
    size = width // heads
    fields.only("apply_residual_connection_post_layernorm", False)
    fields.only("slow_but_exact", False)
    fields.skip("pretraining_tp", "n_inner", "seq_length", "offset_alibi", "n_positions")
    fields.skip("attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion")
    fields.skip("skip_bias_add", "skip_bias_add_qkv", "unk_token_id", "num_attention_heads")
    return Blueprint(
        family="bloom",
        vocab_size=fields.integer("vocab_size"),
        width=width,
        inner=4 * width,
        heads=heads,
        kv_heads=heads,
        head_size=size,
        layers=(Layer(rotary=None, window=None, scale=size**-0.5),) * fields.integer("n_layer"),
        norm="layer",
        epsilon=fields.number("layer_norm_epsilon"),
        activation="gelu_tanh",
        alibi=_slopes(heads),
        embedding_norm=True,
        tied=fields.flag("tie_word_embeddings", True),
    ), NAMES


def _slopes(heads: int) -> tuple[float, ...]:
    """Press et al. 2021, "Train Short, Test Long": a geometric series, for any number of heads."""
    power = 2 ** math.floor(math.log2(heads))
    base = np.float32(2 ** -(2 ** -(math.log2(power) - 3)))
    slopes = [np.power(base, each) for each in range(1, power + 1)]
    if power != heads:
        extra = np.float32(2 ** -(2 ** -(math.log2(2 * power) - 3)))
        slopes += [np.power(extra, each) for each in range(1, 2 * (heads - power) + 1, 2)]
    return tuple(float(np.float32(each)) for each in slopes)

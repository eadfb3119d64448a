"""Falcon with rotary positions, in its three layouts of queries, keys and values."""

from __future__ import annotations

from dataclasses import replace

from llmcli.engine.blueprint import Blueprint, Layer
from llmcli.engine.families.bloom import NAMES
from llmcli.engine.families.fields import Fields
from llmcli.engine.families.rotation import rotary
from llmcli.engine.families.weights import Names

_NAMES = replace(NAMES, embedding_norm="")


def falcon(fields: Fields) -> tuple[Blueprint, Names]:
    """FalconForCausalLM; with ALiBi it is refused, for its slopes are rounded on the way."""
    width, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    size = width // heads
    fields.only("alibi", False)
    new, single = fields.flag("new_decoder_architecture"), fields.flag("multi_query", True)
    parallel = fields.flag("parallel_attn", True)
    kv_heads = fields.integer("num_kv_heads", heads)
    norms = fields.integer("num_ln_in_parallel_attn", 2 if new else 1)
    if norms > 2 or (new and not parallel) or (norms == 2 and not new):
        fields.refuse("num_ln_in_parallel_attn")
    fields.skip("bias", "apply_residual_connection_post_layernorm", "n_embed", "rope_scaling")
    two = parallel and norms == 2
    names = _NAMES
    if two:
        names = replace(names, attention_norm="ln_attn", mlp_norm="ln_mlp")
    elif parallel:
        names = replace(names, mlp_norm="")
    return Blueprint(
        family="falcon",
        vocab_size=fields.integer("vocab_size"),
        width=width,
        inner=fields.integer("ffn_hidden_size"),
        heads=heads,
        kv_heads=kv_heads if new else (1 if single else heads),
        head_size=size,
        layers=(Layer(rotary=0, window=None, scale=size**-0.5),)
        * fields.integer("num_hidden_layers"),
        norm="layer",
        epsilon=fields.number("layer_norm_epsilon"),
        parallel=parallel,
        shared_norm=parallel and not two,
        activation=fields.activation("activation"),
        rotaries=(rotary(fields, head_size=size),),
        tied=fields.flag("tie_word_embeddings", True),
    ), names

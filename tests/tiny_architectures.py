"""A tiny random model of every causal architecture that the installed transformers has."""

from __future__ import annotations

from typing import Any

import torch

# Whatever a configuration calls like this gets this value.
_SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_dim", "lru_width"), 32),
    **dict.fromkeys(
        ("n_inner", "intermediate_size", "ffn_dim", "d_ff", "dff", "d_inner", "inner_dim"), 64
    ),
    **dict.fromkeys(
        ("decoder_ffn_dim", "encoder_ffn_dim", "feed_forward_size", "ffn_hidden_size"), 64
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_blocks"), 2),
    **dict.fromkeys(("decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_encoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), 4),
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rotary_dim": 4,
    "vocab_size": 320,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 2048),
    "max_target_positions": 2048,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
    # Windows that a short text is longer than.
    **dict.fromkeys(("sliding_window", "window_size", "local_attention"), 8),
    **dict.fromkeys(("attention_window_size", "attention_chunk_size"), 8),
    # Experts.
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_num_experts", "num_experts_per_tok", "num_experts_per_token"), 2),
    **dict.fromkeys(("moe_k", "moe_topk", "zero_expert_num", "n_group", "num_expert_group"), 2),
    **dict.fromkeys(("n_shared_experts", "topk_group"), 1),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size"), 16),
    "shared_expert_intermediate_size": 32,
    # Attention over low ranks, and over the tokens that an index picks.
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "v_head_dim", "index_head_dim"), 8),
    "qk_rope_head_dim": 4,
    "qk_head_dim": 12,
    # Where an index leaves tokens out, transformers' own forward of a text and that of the
    # text with more after it differ.
    "index_topk": 2048,
    "index_n_heads": 2,
    # Recurrences.
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 8),
    "linear_num_key_heads": 2,
    **dict.fromkeys(("linear_num_value_heads", "linear_num_heads"), 4),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    "mamba_expand": 2,
    **dict.fromkeys(("mamba_n_heads", "mamba_dt_rank"), 4),
    "mamba_d_head": 16,
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 8),
    # Embeddings of their own width, adapters, pictures.
    "embedding_size": 16,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 320,
    "adapter_rank": 4,
    "attention_hidden_size": 64,
    "attention_head_dim": 16,
    "image_size": 16,
    "patch_size": 8,
}
_LOW_RANK = {"num_key_value_heads": 4, "head_dim": 4}
_PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_FOUR = {"num_hidden_layers": 4}


def _each(names: tuple[str, ...], fields: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: dict(fields) for name in names}


# What the names do not say.
_OWN: dict[str, dict[str, Any]] = {
    "bamba": {**_FOUR, "attn_layer_indices": [1, 3]},
    "bailing_hybrid": {**_LOW_RANK, "num_hidden_layers": 6},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {"sliding_attention": _PLAIN_ROPE, "full_attention": _PLAIN_ROPE},
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 64},
    },
    "dots3_note_text": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3_text": {"num_hidden_layers": 7},
    "gemma3n_text": {
        "num_hidden_layers": 10,
        "num_kv_shared_layers": 2,
        "intermediate_size": [64] * 10,
        "activation_sparsity_pattern": [0.0] * 10,
        "laurel_rank": 4,
    },
    "gemma4_text": {"num_hidden_layers": 6},
    "gpt_neo": {**_FOUR, "num_layers": 4, "attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {**_FOUR, "layer_types": ["mamba", "attention"] * 2},
    "jamba": {**_FOUR, "attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {
        **_FOUR,
        **_LOW_RANK,
        "layer_types": ["linear_attention", "full_attention"] * 2,
    },
    "lfm2": {**_FOUR, "layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {**_FOUR, "layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 2},
    "qwen4_exp_text": {
        **_FOUR,
        "ngram_vocab_size_base": 64,
        "ple_embed_dim": 8,
        "hc_lowrank": 4,
        "make_ngram_vocab_size_divisible_by": 8,
        "split_ngram_parts": 2,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 64,
        "indexer_compress_ratio": 4,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "is_decoder": True,
        "axial_pos_shape": [32, 64],
        "axial_pos_embds_dim": [16, 16],
        "attn_layers": ["local", "lsh"],
        "attention_head_size": 8,
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
    },
    "rwkv": {"attention_hidden_size": 32},
    "xlstm": {"chunk_size": 64},
    "xmod": {"is_decoder": True, "default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 8, "attn_layer_period": 2, "attn_layer_offset": 1,
              "n_mamba_heads": 2},
    "zamba2": {**_FOUR, "n_mamba_heads": 4, "mamba_headdim": 16, "hybrid_layer_ids": [1, 3],
               "layers_block_type": ["mamba", "hybrid"] * 2, "num_query_groups": 4,
               "kv_channels": 8},
    "zaya": {**_FOUR, "num_experts_per_tok": 1},
    # Every kind of layer once or twice.
    **_each(
        ("afmoe", "cohere2", "cohere2_moe", "deepseek_v4", "exaone4", "exaone_moe", "gemma2",
         "gpt_oss", "lfm3", "llama4_text", "mimo_v2_flash", "minimax", "modernbert-decoder",
         "olmo3", "olmo_hybrid", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "smollm3"),
        _FOUR,
    ),
    **_each(
        ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral", "nemotron"),
        {"head_dim": 8, "num_key_value_heads": 2},
    ),
    **_each(
        ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite",
         "glm_moe_dsa", "longcat_flash", "minicpm3", "youtu"),
        _LOW_RANK,
    ),
    # Masked models that were made causal.
    **_each(
        ("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie",
         "megatron-bert", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer",
         "xlm-roberta", "xlm-roberta-xl"),
        {"is_decoder": True},
    ),
}  # fmt: skip
# More numbers than this is not tiny: something in the configuration kept its real size.
_MOST_PARAMETERS = 20_000_000


def architectures() -> list[str]:
    """The model types that AutoModelForCausalLM knows."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(model_type: str, **changes: Any) -> Any:
    """A configuration of a type with everything in it small, and some fields set."""
    from dataclasses import fields

    from transformers import CONFIG_MAPPING

    kind: Any = CONFIG_MAPPING[model_type]
    try:
        real = kind().to_dict()
    except Exception:  # the defaults of some contradict each other
        real = {each.name: 0 for each in fields(kind)}
    renamed = getattr(kind, "attribute_map", {})
    small = {
        key: value
        for key, value in _SIZES.items()
        if key in renamed or not isinstance(real.get(key, []), (list, dict))
    }
    for part in getattr(kind, "sub_configs", {}):
        inner = real.get(part)
        if isinstance(inner, dict) and inner.get("model_type") in CONFIG_MAPPING:
            small[part] = tiny_config(inner["model_type"]).to_dict()
    return kind(**{**small, **_OWN.get(model_type, {}), **changes})


def tiny_module(model_type: str, **changes: Any) -> Any:
    """A random model in eval mode, with weights large enough that each token matters.

    Raises:
        ValueError: It cannot be made small.
    """
    from transformers import AutoModelForCausalLM

    from_config: Any = AutoModelForCausalLM.from_config
    config = tiny_config(model_type, **changes)
    with torch.device("meta"):
        size = sum(each.numel() for each in from_config(config).parameters())
    if size > _MOST_PARAMETERS:
        raise ValueError(f"{size:,} parameters")
    torch.manual_seed(0)
    module: Any = from_config(config).eval().float()
    with torch.no_grad():
        for weight in module.parameters():
            if weight.dim() >= 2 and weight.std() < 0.03:
                weight.mul_(6.0)
    return module

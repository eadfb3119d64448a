"""A tiny random model of every family that the engine knows, with its quirks switched on."""

from __future__ import annotations

from typing import Any

import torch
import transformers

_COMMON = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
_FULL_HEADS = {**_COMMON, "num_key_value_heads": None}
_GPT2 = {
    "vocab_size": 97, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
_YARN = {
    "rope_type": "yarn", "rope_theta": 300.0, "factor": 4.0, "beta_fast": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
_ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]

# Name -> (config class, its arguments).
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", _GPT2),
    "gpt2-quirks": (
        "GPT2Config",
        {
            **_GPT2,
            "n_inner": 40,
            "activation_function": "quick_gelu",
            "scale_attn_by_inverse_layer_idx": True,
            "tie_word_embeddings": False,
        },
    ),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "vocab_size": 97,
            "hidden_size": 32,
            "num_layers": 4,
            "attention_types": [[["global", "local"], 2]],
            "num_heads": 4,
            "window_size": 5,
            "max_position_embeddings": 64,
        },
    ),
    "gpt_neox": (
        "GPTNeoXConfig",
        {k: v for k, v in _COMMON.items() if k != "num_key_value_heads"},
    ),
    "gpt_neox-one-after-another": (
        "GPTNeoXConfig",
        {
            **{k: v for k, v in _COMMON.items() if k != "num_key_value_heads"},
            "use_parallel_residual": False,
            "attention_bias": False,
            "hidden_act": "relu",
        },
    ),
    "gptj": (
        "GPTJConfig",
        {**_GPT2, "rotary_dim": 4, "tie_word_embeddings": False},
    ),
    "opt": (
        "OPTConfig",
        {
            "vocab_size": 97,
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "pad_token_id": 1,
        },
    ),
    "llama": ("LlamaConfig", {**_COMMON, "tie_word_embeddings": True}),
    "llama-quirks": (
        "LlamaConfig",
        {
            **_COMMON,
            "head_dim": 16,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": _LLAMA3,
        },
    ),
    "llama-yarn": ("LlamaConfig", {**_COMMON, "rope_parameters": _YARN}),
    "llama-linear": (
        "LlamaConfig",
        {
            **_COMMON,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0},
        },
    ),
    "mistral": ("MistralConfig", {**_COMMON, "sliding_window": 6}),
    "qwen2": (
        "Qwen2Config",
        {
            **_COMMON,
            "use_sliding_window": True,
            "sliding_window": 7,
            "max_window_layers": 1,
        },
    ),
    "qwen3": ("Qwen3Config", {**_COMMON, "head_dim": 16, "attention_bias": True}),
    "smollm3": ("SmolLM3Config", {**_COMMON, "no_rope_layer_interval": 2}),
    "gemma": ("GemmaConfig", {**_COMMON, "head_dim": 16, "pad_token_id": 0}),
    "gemma2": (
        "Gemma2Config",
        {
            **_COMMON,
            "head_dim": 16,
            "pad_token_id": 0,
            "sliding_window": 6,
            "query_pre_attn_scalar": 20,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {
            **_COMMON,
            "head_dim": 16,
            "pad_token_id": 0,
            "sliding_window": 6,
            "layer_types": _ALTERNATING,
            "query_pre_attn_scalar": 20,
            "final_logit_softcapping": 3.0,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
    ),
    "phi": ("PhiConfig", {**_FULL_HEADS, "qk_layernorm": True}),
    "phi3": ("Phi3Config", {**_COMMON, "sliding_window": 6, "pad_token_id": 0}),
    "phi3-longrope": (
        "Phi3Config",
        {
            **_COMMON,
            "pad_token_id": 0,
            "original_max_position_embeddings": 64,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 100.0,
                "short_factor": [1.0, 1.1, 1.3, 1.6],
                "long_factor": [1.0, 2.0, 3.0, 4.0],
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "olmo2": ("Olmo2Config", _COMMON),
    "stablelm": ("StableLmConfig", {**_COMMON, "use_qkv_bias": True}),
    "stablelm-side-by-side": (
        "StableLmConfig",
        {**_COMMON, "use_parallel_residual": True, "qk_layernorm": True},
    ),
    "starcoder2": ("Starcoder2Config", {**_COMMON, "sliding_window": 6}),
    "granite": (
        "GraniteConfig",
        {
            **_COMMON,
            "embedding_multiplier": 3.0,
            "logits_scaling": 4.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
            "tie_word_embeddings": True,
        },
    ),
    "bloom": ("BloomConfig", {"vocab_size": 97, "hidden_size": 48, "n_layer": 3, "n_head": 6}),
    "falcon": (
        "FalconConfig",
        {
            "vocab_size": 97,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
        },
    ),
    "falcon-new": (
        "FalconConfig",
        {
            "vocab_size": 97,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "new_decoder_architecture": True,
            "max_position_embeddings": 64,
            "bias": True,
        },
    ),
    "falcon-one-after-another": (
        "FalconConfig",
        {
            "vocab_size": 97,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "multi_query": False,
            "parallel_attn": False,
            "max_position_embeddings": 64,
        },
    ),
}


def tiny(name: str, seed: int = 0, **changes: Any) -> Any:
    """A random float32 model in eval mode; every weight, norms and biases too, is random."""
    kind, settings = TINY[name]
    config = getattr(transformers, kind)(**{**settings, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        from_config: Any = transformers.AutoModelForCausalLM.from_config
        module = from_config(config)
        for parameter in module.parameters():
            wide = 0.3 if parameter.dim() == 1 else 1.5 / parameter.shape[-1] ** 0.5
            noise = torch.randn_like(parameter) * wide
            with torch.no_grad():
                parameter.copy_(parameter + noise if parameter.dim() == 1 else noise)
    return module.float().eval()

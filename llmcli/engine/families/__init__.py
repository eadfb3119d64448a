"""The families that our own engine computes: of a config a blueprint, of names roles.

A family that is not here, or a config that says something its family does not know, is refused
with the reason; transformers then serves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llmcli.engine.blueprint import Blueprint
from llmcli.engine.families import (
    bloom,
    falcon,
    gemma,
    gpt2,
    gpt_neo,
    gpt_neox,
    gptj,
    granite,
    llama,
    olmo2,
    opt,
    phi,
    qwen,
    smollm3,
    stablelm,
    starcoder2,
)
from llmcli.engine.families.fields import Fields, Refusal
from llmcli.engine.families.weights import Names, by_role

__all__ = ["FAMILIES", "Names", "Refusal", "by_role", "describe"]

Family = Callable[[Fields], tuple[Blueprint, Names]]

# transformers' model type -> the class whose forward the family describes, and the family.
FAMILIES: Mapping[str, tuple[str, Family]] = {
    "bloom": ("BloomForCausalLM", bloom.bloom),
    "falcon": ("FalconForCausalLM", falcon.falcon),
    "gemma": ("GemmaForCausalLM", gemma.gemma),
    "gemma2": ("Gemma2ForCausalLM", gemma.gemma2),
    "gemma3_text": ("Gemma3ForCausalLM", gemma.gemma3),
    "gpt2": ("GPT2LMHeadModel", gpt2.gpt2),
    "gpt_neo": ("GPTNeoForCausalLM", gpt_neo.gpt_neo),
    "gpt_neox": ("GPTNeoXForCausalLM", gpt_neox.gpt_neox),
    "gptj": ("GPTJForCausalLM", gptj.gptj),
    "granite": ("GraniteForCausalLM", granite.granite),
    "llama": ("LlamaForCausalLM", llama.llama),
    "mistral": ("MistralForCausalLM", llama.mistral),
    "olmo2": ("Olmo2ForCausalLM", olmo2.olmo2),
    "opt": ("OPTForCausalLM", opt.opt),
    "phi": ("PhiForCausalLM", phi.phi),
    "phi3": ("Phi3ForCausalLM", phi.phi3),
    "qwen2": ("Qwen2ForCausalLM", qwen.qwen2),
    "qwen3": ("Qwen3ForCausalLM", qwen.qwen3),
    "smollm3": ("SmolLM3ForCausalLM", smollm3.smollm3),
    "stablelm": ("StableLmForCausalLM", stablelm.stablelm),
    "starcoder2": ("Starcoder2ForCausalLM", starcoder2.starcoder2),
}


def describe(config: Mapping[str, Any], module: str | None = None) -> tuple[Blueprint, Names]:
    """Return a model's blueprint and its family's names of weights.

    Args:
        config: What transformers made of config.json, every default filled in.
        module: The name of the class that transformers built; None to go by the config.

    Raises:
        Refusal: our own engine does not compute it; the text says why.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise Refusal(f"no kernels for models of type {kind!r}")
    expected, family = FAMILIES[kind]
    if module not in (None, expected):
        raise Refusal(f"{module} is not the class that is known here, {expected}")
    fields = Fields(config)
    fields.only("quantization_config")
    fields.only("is_encoder_decoder", False)
    fields.only("pruned_heads", {})
    fields.only("chunk_size_feed_forward", 0)
    try:
        blueprint, names = family(fields)
    except (TypeError, ZeroDivisionError, OverflowError) as exc:
        raise Refusal(f"config.json has a value of another type than is known here: {exc}") from exc
    except ValueError as exc:
        raise exc if isinstance(exc, Refusal) else Refusal(str(exc)) from exc
    fields.done()
    return blueprint, names

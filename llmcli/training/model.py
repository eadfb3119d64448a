"""The model that is trained: a new GPT-2, or another one with or without low-rank adapters."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from llmcli.errors import InvalidInput
from llmcli.extras import missing_package
from llmcli.training.settings import Adapter, ModelShape, TrainPrecision, TrainSettings


def new_model(shape: ModelShape, *, dropout: float, end_of_text: int) -> PreTrainedModel:
    """Return a GPT-2 with random weights (torch's generator draws them)."""
    return GPT2LMHeadModel(
        GPT2Config(
            **asdict(shape),
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            bos_token_id=end_of_text,
            eos_token_id=end_of_text,
        )
    )


def prepare_for_training(model: PreTrainedModel, settings: TrainSettings) -> None:
    """Choose, in place, the faster of equal ways to compute.

    GPT-2's activation becomes torch's own of the same formula: one pass over memory, not eight.
    Compiled on a processor, attention written out is faster than the fused kernel (5% at length
    256 with 8 heads, 26% at 1024 with 4, on a Zen 4).
    """
    model.config.use_cache = False
    for module in model.modules():
        if type(getattr(module, "act", None)).__name__ == "NewGELUActivation":
            module.act = nn.GELU(approximate="tanh")
    if settings.gradient_checkpointing:
        _recompute_activations(model)
    if settings.compile:
        if model.device.type == "cpu":
            model.set_attn_implementation("eager")
        model.compile(dynamic=False)


def _recompute_activations(model: PreTrainedModel) -> None:
    """Keep the inputs of each layer for the backward pass, and compute the rest again.

    Raises:
        InvalidInput: the model's layers cannot do so.
    """
    if not model.supports_gradient_checkpointing:
        raise InvalidInput(
            f"{type(model).__name__} does not support gradient checkpointing.",
            "Train without --gradient-checkpointing; a smaller --batch-size saves memory too.",
        )
    # The name changed within transformers 5, and the old one warns.
    enable: Any = getattr(model, "activation_checkpointing_enable", None)
    if enable is None:
        enable = model.gradient_checkpointing_enable
    # Not reentrant: adapters in a frozen model, and several processes, need it so.
    enable({"use_reentrant": False})


def set_dropout(model: PreTrainedModel, dropout: float) -> None:
    """Set every dropout of a model that was trained with another."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout


def add_adapter(model: PreTrainedModel, adapter: Adapter, *, dropout: float) -> PreTrainedModel:
    """Freeze the model and add low-rank matrices to its linear layers (Hu and others, 2021).

    Raises:
        LlmcliError: peft is not installed.
        InvalidInput: the model has no layer that takes them.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as exc:
        raise missing_package("--lora", "lora") from exc
    targets = sorted({name.rsplit(".", 1)[-1] for name, _ in _linear_layers(model)})
    if not targets:
        raise InvalidInput("The model has no linear layer to adapt.", "Train without --lora.")
    make: Any = LoraConfig
    config = make(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
        fan_in_fan_out=model.config.model_type == "gpt2",
    )
    with warnings.catch_warnings():
        # peft asks transformers by a name that is going away.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        adapted: Any = get_peft_model(model, config)
    return adapted  # type: ignore[no-any-return]


def _linear_layers(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    output: Any = model.get_output_embeddings
    head = output()
    return [
        (name, module)
        for name, module in model.named_modules()
        if module is not head
        and (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")
    ]


def training_precision(wanted: TrainPrecision, device: torch.device) -> str:
    """Return ``bfloat16`` or ``float32``: what was asked for, or what is fast here."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    capabilities: Mapping[str, Any] = torch.cpu.get_capabilities()
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bfloat16" if fast or capabilities.get("bf16") else "float32"

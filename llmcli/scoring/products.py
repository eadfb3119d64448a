"""The product of many rows with float32 weights, by the library that is ahead on this processor."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmcli.engine.gpt2_weights import GPT2Weights
from llmcli.engine.kernels import Activation, activate


@cache
def mkl_is_ahead() -> bool:
    """Whether torch's own product (MKL) beats oneDNN on weights that lie [in, out].

    It does on Intel's processors: oneDNN takes up to twice as long where rows lie a multiple of
    4 KiB apart, as those of GPT-2's widest layer do. Elsewhere MKL does without its best code.
    """
    if not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        with Path("/proc/cpuinfo").open("rb") as file:
            return b"GenuineIntel" in file.read(4096)
    except OSError:  # not Linux
        return False


class ConvLinear:
    """``activation(x @ weight + bias)``, weights [in, out] as transformers' Conv1D keeps them.

    Args:
        layer: A Conv1D; its storage is shared.
        activation: Applied to the result.
    """

    def __init__(self, layer: Any, activation: Activation | None = None) -> None:
        self._weight: Tensor = layer.weight.detach().float()
        self._bias: Tensor = layer.bias.detach().float()
        self._activation = activation

    @property
    def nbytes(self) -> int:
        """Bytes of weights that one call reads."""
        return self._weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """Map [rows, in] to [rows, out]."""
        return activate(torch.addmm(self._bias, x, self._weight), self._activation)


def with_mkl(weights: GPT2Weights, module: Any) -> GPT2Weights:
    """The same float32 model, its blocks' products by torch's own operator.

    Args:
        weights: The model.
        module: The GPT2LMHeadModel that they were made of.
    """
    activation = weights.shape.activation_function
    blocks = tuple(
        replace(
            block,
            c_attn=ConvLinear(layer.attn.c_attn),
            attn_c_proj=ConvLinear(layer.attn.c_proj),
            c_fc=ConvLinear(layer.mlp.c_fc, activation),
            mlp_c_proj=ConvLinear(layer.mlp.c_proj),
        )
        for block, layer in zip(weights.blocks, module.transformer.h, strict=True)
    )
    return replace(weights, blocks=blocks)

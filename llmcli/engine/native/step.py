"""A few tokens through a whole GPT-2 in one call of the library."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmcli.engine.native.library import (
    FEW_ROWS,
    Block,
    Cache,
    Layer,
    Model,
    Norm,
    Tokens,
    Workspace,
    address,
    library,
)

if TYPE_CHECKING:
    from llmcli.engine.gpt2_weights import GPT2Weights, LayerNorm
    from llmcli.engine.kernels import Linear


class Step:
    """Appends tokens to a cache and returns logits.

    Args:
        weights: The model; kept, for the library points into it.
        layers: What the library needs to know of its linear layers, by their objects' ids.

    Attributes:
        takes_many: Whether more than 32 consecutive tokens of one row can be appended at once.
    """

    def __init__(self, weights: GPT2Weights, layers: dict[int, Layer]) -> None:
        self._weights = weights
        shape = weights.shape
        blocks = [
            Block(
                ln_1=_norm(block.ln_1),
                ln_2=_norm(block.ln_2),
                c_attn=layers[id(block.c_attn)],
                attn_c_proj=layers[id(block.attn_c_proj)],
                c_fc=layers[id(block.c_fc)],
                mlp_c_proj=layers[id(block.mlp_c_proj)],
                attention_scale=shape.attention_scale(index),
            )
            for index, block in enumerate(weights.blocks)
        ]
        self._model = Model(
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            n_embd=shape.n_embd,
            n_inner=blocks[0].c_fc.n if blocks else 0,
            epsilon=shape.layer_norm_epsilon,
            blocks=(Block * len(blocks))(*blocks),
            ln_f=_norm(weights.ln_f),
            lm_head=layers[id(weights.lm_head)],
        )
        self._workspace = Workspace()
        native = library()
        self.takes_many = native is not None and bool(
            native.llmcli_takes_many(ctypes.byref(self._model))
        )

    @classmethod
    def over(cls, weights: GPT2Weights) -> Step | None:
        """A step over these weights; None where the library is not there or cannot take them."""
        if library() is None:
            return None
        linears: list[Linear] = [weights.lm_head]
        norms = [weights.ln_f]
        for block in weights.blocks:
            linears += [block.c_attn, block.attn_c_proj, block.c_fc, block.mlp_c_proj]
            norms += [block.ln_1, block.ln_2]
        if not _fits(weights):
            return None
        layers = {id(linear): getattr(linear, "layer", None) for linear in linears}
        described = {key: layer for key, layer in layers.items() if layer is not None}
        if len(described) < len(layers):
            return None
        if not all(_plain(each) for norm in norms for each in (norm.weight, norm.bias)):
            return None
        return cls(weights, described)

    def __call__(
        self,
        hidden: Tensor,
        cache: Tensor,
        places: Sequence[tuple[int, int]],
        *,
        first: Sequence[int],
        logits: int,
    ) -> Tensor:
        """Append tokens; the same bits however many threads there are.

        Up to 32 tokens also give the same bits whatever stands beside them. More are multiplied
        in bfloat16.

        Args:
            hidden: Embeddings [count, n_embd], float32; overwritten.
            cache: [layer, 2, row, head, room, head_dim], float32, contiguous.
            places: The cache's row and position of each token, ascending.
            first: The first position that each row of the cache uses.
            logits: How many tokens, counted from the last, get logits.

        Returns:
            Logits, float32 [logits, vocab].
        """
        native = library()
        count = len(hidden)
        if native is None or (count > FEW_ROWS and not self.takes_many):
            raise RuntimeError("no library, or too many tokens for one step")
        result = torch.empty(logits, self._model.lm_head.n)
        int64s = ctypes.c_int64 * count
        tokens = Tokens(
            count=count,
            row=int64s(*(row for row, _ in places)),
            position=int64s(*(position for _, position in places)),
            first=(ctypes.c_int64 * len(first))(*first),
        )
        room = cache.shape[4]
        where = Cache(data=address(cache), rows=len(first), room=room)
        threads = torch.get_num_threads()
        model = ctypes.byref(self._model)
        memory = native.llmcli_step_bytes(model, count, logits, room, FEW_ROWS, threads)
        native.llmcli_step(
            model,
            ctypes.byref(where),
            ctypes.byref(tokens),
            address(hidden),
            address(result),
            count - logits,
            FEW_ROWS,
            self._workspace.pointer(memory),
            threads,
        )
        return result


def _fits(weights: GPT2Weights) -> bool:
    """Whether all sizes are what the shape says: the library goes by it and checks nothing."""
    width = weights.shape.n_embd
    norms = [weights.ln_f, *(norm for b in weights.blocks for norm in (b.ln_1, b.ln_2))]
    inner = {_size(block.c_fc)[0] for block in weights.blocks} or {0}
    return (
        width % weights.shape.n_head == 0
        and all(len(each) == width for norm in norms for each in (norm.weight, norm.bias))
        and len(inner) == 1
        and _size(weights.lm_head)[1] == width
        and all(
            _size(block.c_attn) == (3 * width, width)
            and _size(block.attn_c_proj) == (width, width)
            and _size(block.c_fc)[1] == width
            and _size(block.mlp_c_proj) == (width, *inner)
            for block in weights.blocks
        )
    )


def _size(linear: Linear) -> tuple[int, int]:
    layer = getattr(linear, "layer", None)
    return (0, 0) if layer is None else (layer.n, layer.k)


def _plain(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.is_contiguous() and not tensor.is_cuda


def _norm(norm: LayerNorm) -> Norm:
    return Norm(weight=address(norm.weight), bias=address(norm.bias))

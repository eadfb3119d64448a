"""The GPT-2 decoder for CUDA: a step of fixed shapes over fixed memory, captured and replayed.

A step of a small model takes a GPU less time than starting its hundreds of kernels one by one
takes the processor. A CUDA graph starts them all at once, but repeats them literally: the same
shapes, the same addresses. So tokens, positions and the cache live in tensors that stay where
they are; how long each row is stands in a tensor, and what lies beyond is masked.

On a device without graphs the very same step runs operation by operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from llmcli.engine.gpt2_weights import GPT2Weights

# A prompt is read this many tokens at a time, so that memory does not grow with its square.
PREFILL_TOKENS = 512
# A step attends to this many positions, or twice, four times ... as many.
SHORTEST_SPAN = 256
# Runs before a capture, in which libraries choose kernels and allocate what they keep.
_WARM_UP = 3

layer_norm = torch.layer_norm
attend = torch.nn.functional.scaled_dot_product_attention

StepFunction = Callable[[], Tensor]


class StaticGPT2Decoder:
    """Decodes a GPT-2 model; see the Decoder protocol.

    The cache is one tensor [layer, key/value, row, head, n_positions, head_dim], allocated once
    for as many rows as a batch has; position ``p`` of a row is its ``p``-th token. Steps come in
    few shapes, each captured once: rows are rounded up to a power of two (those too many compute
    what nobody reads), the positions attended to are a power of two times 256.

    Args:
        weights: The model; decoders may share it.
        capture: Turns a step into its replay; None for CUDA's graphs on such a device, and for
            no capture elsewhere.
    """

    def __init__(
        self,
        weights: GPT2Weights,
        *,
        capture: Callable[[StepFunction], StepFunction] | None = None,
    ) -> None:
        self._weights = weights
        self._shape = weights.shape
        self._device = weights.wpe.device
        if capture is None and self._device.type == "cuda":
            capture = CudaCapture()
        self._capture = capture
        self._scales = [self._shape.attention_scale(i) for i in range(self._shape.n_layer)]
        self._positions = torch.arange(self._shape.n_positions, device=self._device)
        self._lengths: list[int] = []
        self._steps: dict[tuple[int, int], StepFunction] = {}
        self._allocate(0)

    @property
    def vocab_size(self) -> int:
        """How many logits a position has."""
        return self._shape.vocab_size

    @property
    def n_positions(self) -> int:
        """The context."""
        return self._shape.n_positions

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens in the cache, a number for each row."""
        return tuple(self._lengths)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that a step reads."""
        return self._weights.nbytes

    @property
    def kernels(self) -> str:
        """What computes, in words."""
        return "torch's operators" + (", captured steps" if self._capture is not None else "")

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read the prompts afresh, each by itself; logits [batch, vocab]."""
        width = _power_of_two(len(prompts))
        if width > self._cache.shape[2]:
            self._allocate(width)
        else:
            # What stands in unused positions is weighted with 0, and 0 * NaN is NaN.
            self._cache.zero_()
        self._lengths = [len(prompt) for prompt in prompts]
        last = []
        for row, prompt in enumerate(prompts):
            cache = self._cache[:, :, row : row + 1]
            for start in range(0, len(prompt), PREFILL_TOKENS):
                ids = torch.tensor([prompt[start : start + PREFILL_TOKENS]], device=self._device)
                end = start + ids.shape[1]
                hidden = self._read(ids, self._positions[None, start:end], cache, end)
            last.append(hidden[-1:])
        return self._weights.lm_head(torch.cat(last)).float()

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append a token to each row; logits [batch, vocab]."""
        rows = len(self._lengths)
        width = _power_of_two(rows)
        span = self._span(max(self._lengths) + 1)
        spare = [0] * (width - rows)
        # The one transfer to the device: what the captured step reads.
        inputs = torch.tensor([[*tokens, *spare], [*self._lengths, *spare]])
        self._inputs[:, :width].copy_(inputs)
        run = self._steps.get((width, span))
        if run is None:
            run = self._steps[width, span] = self._make_step(width, span)
        logits = run()[:rows].clone()  # the next replay writes to the same place
        self._lengths = [length + 1 for length in self._lengths]
        return logits

    @torch.inference_mode()
    def extend(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Append tokens to each row; logits [batch, time, vocab]."""
        rows, time = len(tokens), len(tokens[0])
        ids = torch.tensor(tokens, device=self._device)
        starts = torch.tensor(self._lengths, device=self._device)[:, None]
        cache = self._cache[:, :, :rows]
        logits = []
        for first in range(0, time, PREFILL_TOKENS):
            piece = ids[:, first : first + PREFILL_TOKENS]
            done = first + piece.shape[1]
            places = starts + self._positions[None, first:done]
            hidden = self._read(piece, places, cache, max(self._lengths) + done)
            logits.append(self._weights.lm_head(hidden).float().view(rows, done - first, -1))
        self._lengths = [length + time for length in self._lengths]
        return torch.cat(logits, dim=1) if len(logits) > 1 else logits[0]

    def rollback(self, lengths: Sequence[int]) -> None:
        """Keep the first ``lengths[row]`` tokens of each row: what lies beyond is masked."""
        self._lengths = list(lengths)

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order."""
        if list(rows) == list(range(len(self._lengths))):
            return
        self._lengths = [self._lengths[row] for row in rows]
        end = max(self._lengths, default=0)
        kept = self._cache[:, :, list(rows), :, :end]  # a copy
        if len(rows) > self._cache.shape[2]:
            self._allocate(_power_of_two(len(rows)))
        self._cache[:, :, : len(rows), :, :end] = kept

    def _allocate(self, rows: int) -> None:
        """Get a cache and inputs for so many rows; captured steps know the old addresses only."""
        shape = self._shape
        self._steps.clear()
        head_dim = shape.n_embd // shape.n_head
        size = (shape.n_layer, 2, rows, shape.n_head, shape.n_positions, head_dim)
        self._cache = torch.zeros(size, device=self._device, dtype=self._weights.wpe.dtype)
        self._inputs = torch.zeros(2, rows, dtype=torch.int64, device=self._device)

    def _span(self, positions: int) -> int:
        """How many positions a step looks at that needs so many."""
        span = SHORTEST_SPAN
        while span < positions:
            span *= 2
        return min(span, self._shape.n_positions)

    def _make_step(self, width: int, span: int) -> StepFunction:
        """The step of one shape; captured where there is something to capture with."""
        tokens, positions = (each[:width, None] for each in self._inputs)
        cache = self._cache[:, :, :width]

        def run() -> Tensor:
            hidden = self._read(tokens, positions, cache, span)
            return self._weights.lm_head(hidden).float()

        return run if self._capture is None else self._capture(run)

    def _read(self, ids: Tensor, positions: Tensor, cache: Tensor, span: int) -> Tensor:
        """Run tokens through the blocks; their keys and values go to the cache.

        Nothing here depends on the content of a tensor or moves one to the host, so that a step
        can be captured.

        Args:
            ids: Token ids [batch, time].
            positions: Where each stands in its row, [batch, time].
            cache: The rows' cache, [layer, 2, batch, head, n_positions, head_dim].
            span: The positions that are looked at: those before it.

        Returns:
            The last layer norm's output, [batch * time, n_embd].
        """
        weights, shape = self._weights, self._shape
        rows, time = ids.shape
        head_dim = shape.n_embd // shape.n_head
        places = weights.wpe[positions]
        x = (weights.wte[ids].to(places.dtype) + places).view(rows * time, shape.n_embd)
        # A token looks at its own position and those before it.
        mask = self._positions[:span] <= positions[:, None, :, None]
        index = positions.view(1, rows, 1, time, 1)
        index = index.expand(2, rows, shape.n_head, time, head_dim)
        split = (rows, time, 3, shape.n_head, head_dim)
        norm, epsilon = (shape.n_embd,), shape.layer_norm_epsilon
        for layer, block in enumerate(weights.blocks):
            y = layer_norm(x, norm, block.ln_1.weight, block.ln_1.bias, epsilon)
            qkv = block.c_attn(y).view(split).permute(2, 0, 3, 1, 4).to(cache.dtype)
            cache[layer].scatter_(3, index, qkv[1:])
            keys, values = cache[layer, :, :, :, :span]
            y = attend(qkv[0], keys, values, attn_mask=mask, scale=self._scales[layer])
            x += block.attn_c_proj(y.transpose(1, 2).reshape(rows * time, shape.n_embd))
            y = layer_norm(x, norm, block.ln_2.weight, block.ln_2.bias, epsilon)
            x += block.mlp_c_proj(block.c_fc(y))
        return layer_norm(x, norm, weights.ln_f.weight, weights.ln_f.bias, epsilon)


class CudaCapture:
    """Captures steps as CUDA graphs that share one pool of memory.

    Sharing is safe because steps run one after the other on one stream and what one returns is
    copied before the next begins.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: StepFunction) -> StepFunction:
        """Return the replay of ``step``; the values it finds are those of its fixed inputs then.

        The runs before the capture write to the cache what the first replay writes again.
        """
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits = step()

        def replay() -> Tensor:
            graph.replay()
            return logits

        return replay


def _power_of_two(count: int) -> int:
    """The smallest power of two that is at least ``count``; 0 for 0."""
    return 1 << (count - 1).bit_length() if count else 0

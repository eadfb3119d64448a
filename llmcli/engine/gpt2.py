"""The fast decoder for GPT-2 models: a preallocated cache, few operations a step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from llmcli.engine.gpt2_weights import GPT2Weights
from llmcli.engine.native.library import FEW_ROWS, description
from llmcli.engine.native.step import Step

# A prompt is read this many tokens at a time, so that memory does not grow with its square.
PREFILL_TOKENS = 512
# The cache grows by this many positions.
CACHE_STEP = 256

layer_norm = torch.layer_norm
attend = torch.nn.functional.scaled_dot_product_attention


class GPT2Decoder:
    """Decodes a GPT-2 model; see the Decoder protocol.

    The cache is one tensor [layer, key/value, row, head, position, head_dim]. Rows are aligned
    at their ends: all have their next token at the same cache position, and the shorter ones
    leave positions at the front unused. So a step writes at one place for all rows, and a
    mask is needed only where lengths differ.

    Args:
        weights: The model; decoders may share it.
    """

    def __init__(self, weights: GPT2Weights) -> None:
        self._weights = weights
        self._shape = weights.shape
        self._native_step = Step.over(weights)
        self._scales = [self._shape.attention_scale(i) for i in range(self._shape.n_layer)]
        self._end = 0
        self._pads: list[int] = []
        self._cache = self._new_cache(0, 0)
        self._pad_mask: Tensor | None = None  # [row, 1, 1, n_positions], additive

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
        return tuple(self._end - pad for pad in self._pads)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that a step reads."""
        return self._weights.nbytes

    @property
    def kernels(self) -> str:
        """What computes, in words."""
        return description() if self._native_step is not None else "torch's operators"

    @property
    def rows_alike(self) -> int:
        """How many rows it steps at once with the very bits that each would have alone."""
        return FEW_ROWS if self._native_step is not None else 1

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read the prompts afresh; logits [batch, vocab].

        Each is read by itself, so that its logits do not depend on its neighbours.
        """
        self._end = max(map(len, prompts))
        self._pads = [self._end - len(prompt) for prompt in prompts]
        self._cache = self._new_cache(len(prompts), self._end)
        self._refresh_mask()
        logits = [self._prefill_row(row, prompt) for row, prompt in enumerate(prompts)]
        return torch.cat(logits) if len(logits) > 1 else logits[0]

    def _prefill_row(self, row: int, prompt: Sequence[int]) -> Tensor:
        """Read a prompt into a row; logits after it, [1, vocab]."""
        pad, end = self._pads[row], self._end
        if self._at_once(1, len(prompt)):
            for start in range(pad, end, PREFILL_TOKENS):
                places = [(row, at) for at in range(start, min(start + PREFILL_TOKENS, end))]
                tokens = prompt[start - pad : start - pad + len(places)]
                logits = self._append_at_once(tokens, places, logits=1)
            return logits
        cache = self._cache[:, :, row : row + 1, :, pad:]
        for start in range(0, len(prompt), PREFILL_TOKENS):
            ids = torch.tensor([prompt[start : start + PREFILL_TOKENS]], device=self._device)
            hidden = self._read(ids, cache, start, start, None)
        return self._weights.lm_head(hidden[-1:]).float()

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append a token to each row; logits [batch, vocab]."""
        return self._append([[token] for token in tokens])

    @torch.inference_mode()
    def extend(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Append tokens to each row; logits [batch, time, vocab]."""
        rows, time = len(tokens), len(tokens[0])
        if rows == 1 and time > PREFILL_TOKENS:
            pieces = range(0, time, PREFILL_TOKENS)
            logits = [self._append([tokens[0][i : i + PREFILL_TOKENS]]) for i in pieces]
            return torch.cat(logits).view(1, time, -1)
        return self._append(tokens).view(rows, time, -1)

    @torch.inference_mode()
    def rollback(self, lengths: Sequence[int]) -> None:
        """Keep the first ``lengths[row]`` tokens of each row."""
        dropped = {old - new for old, new in zip(self.lengths, lengths, strict=True)}
        if len(dropped) == 1:
            self._end -= dropped.pop()
            return
        end = max(lengths)
        cache = self._new_cache(len(lengths), end)
        for row, (length, pad) in enumerate(zip(lengths, self._pads, strict=True)):
            kept = self._cache[:, :, row, :, pad : pad + length]
            cache[:, :, row, :, end - length : end] = kept
        self._cache, self._end = cache, end
        self._pads = [end - length for length in lengths]
        self._refresh_mask()

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order."""
        if list(rows) == list(range(len(self._pads))):
            return
        pads = [self._pads[row] for row in rows]
        unused = min(pads, default=0)
        old = self._cache[:, :, :, :, unused : self._end]
        self._end -= unused
        self._pads = [pad - unused for pad in pads]
        self._cache = self._new_cache(len(pads), self._end)
        for new_row, row in enumerate(rows):
            self._cache[:, :, new_row, :, : self._end] = old[:, :, row]
        self._refresh_mask()

    @property
    def _device(self) -> torch.device:
        return self._weights.wpe.device

    def _new_cache(self, rows: int, positions: int) -> Tensor:
        """An empty cache with room for one token more than ``positions``."""
        shape = self._shape
        steps = math.ceil((positions + 1) / CACHE_STEP)
        room = max(positions, min(steps * CACHE_STEP, shape.n_positions)) if rows else 0
        head_dim = shape.n_embd // shape.n_head
        size = (shape.n_layer, 2, rows, shape.n_head, room, head_dim)
        # Zeros, for what stands in unused positions is weighted with 0, and 0 * NaN is NaN.
        return torch.zeros(size, device=self._device, dtype=self._weights.wpe.dtype)

    def _refresh_mask(self) -> None:
        if not any(self._pads):
            self._pad_mask = None
            return
        pads = torch.tensor(self._pads, device=self._device).view(-1, 1, 1, 1)
        positions = torch.arange(self.n_positions, device=self._device)
        mask = torch.zeros(len(self._pads), 1, 1, len(positions), device=self._device)
        self._pad_mask = mask.masked_fill_(positions < pads, -math.inf)

    def _append(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Append to each row; logits [batch * time, vocab]."""
        start, time = self._end, len(tokens[0])
        if start + time > self._cache.shape[4]:
            grown = self._new_cache(len(tokens), start + time)
            grown[:, :, :, :, :start] = self._cache[:, :, :, :, :start]
            self._cache = grown
        if self._at_once(len(tokens), time):
            self._end = start + time
            flat = [token for row in tokens for token in row]
            places = [(row, at) for row in range(len(tokens)) for at in range(start, self._end)]
            return self._append_at_once(flat, places, logits=len(flat))
        ids = torch.tensor(tokens, device=self._device)
        position: int | Tensor = start
        if self._pad_mask is not None:
            pads = torch.tensor(self._pads, device=self._device).view(-1, 1)
            position = torch.arange(start, start + time, device=self._device) - pads
        hidden = self._read(ids, self._cache, start, position, self._pad_mask)
        self._end = start + time
        return self._weights.lm_head(hidden).float()

    def _at_once(self, rows: int, time: int) -> bool:
        """Whether the library appends so many tokens to so many rows."""
        step = self._native_step
        return step is not None and (rows * time <= FEW_ROWS or (rows == 1 and step.takes_many))

    def _append_at_once(
        self, tokens: Sequence[int], places: Sequence[tuple[int, int]], *, logits: int
    ) -> Tensor:
        """Put tokens at (row, cache position) by the library; the last ones' logits."""
        weights, pads, step = self._weights, self._pads, self._native_step
        if step is None:
            raise RuntimeError("the library is not there")
        hidden = weights.wte[list(tokens)].float()
        hidden += weights.wpe[[at - pads[row] for row, at in places]]
        return step(hidden, self._cache, places, first=pads, logits=logits)

    def _read(
        self,
        ids: Tensor,
        cache: Tensor,
        start: int,
        position: int | Tensor,
        pad_mask: Tensor | None,
    ) -> Tensor:
        """Run tokens through the blocks; keys and values go to the cache from ``start`` on.

        Args:
            ids: Token ids [batch, time].
            cache: The rows' cache, [layer, 2, batch, head, position, head_dim].
            start: The cache position of the first token.
            position: Its position in the text, or the positions of all, [batch, time].
            pad_mask: Additive mask [batch, 1, 1, at least start + time] of unused positions.

        Returns:
            The last layer norm's output, [batch * time, n_embd].
        """
        weights, shape = self._weights, self._shape
        rows, time = ids.shape
        end = start + time
        if isinstance(position, int):
            places = weights.wpe[position : position + time]
        else:
            places = weights.wpe[position]
        x = (weights.wte[ids].to(places.dtype) + places).view(rows * time, shape.n_embd)
        mask = self._mask(start, time, pad_mask)
        causal = mask is None and time > 1
        split = (rows, time, 3, shape.n_head, shape.n_embd // shape.n_head)
        norm, epsilon = (shape.n_embd,), shape.layer_norm_epsilon
        # One view of the cache a layer: slicing inside the loop costs more than the arithmetic.
        written = cache[:, :, :, :, start:end].unbind(0)
        keys = cache[:, 0, :, :, :end].unbind(0)
        values = cache[:, 1, :, :, :end].unbind(0)
        for layer, block in enumerate(weights.blocks):
            y = layer_norm(x, norm, block.ln_1.weight, block.ln_1.bias, epsilon)
            qkv = block.c_attn(y).view(split).permute(2, 0, 3, 1, 4)
            written[layer].copy_(qkv[1:])
            y = attend(
                qkv[0].to(cache.dtype),
                keys[layer],
                values[layer],
                attn_mask=mask,
                is_causal=causal,
                scale=self._scales[layer],
            )
            x += block.attn_c_proj(y.transpose(1, 2).reshape(rows * time, shape.n_embd))
            y = layer_norm(x, norm, block.ln_2.weight, block.ln_2.bias, epsilon)
            x += block.mlp_c_proj(block.c_fc(y))
        return layer_norm(x, norm, weights.ln_f.weight, weights.ln_f.bias, epsilon)

    def _mask(self, start: int, time: int, pad_mask: Tensor | None) -> Tensor | None:
        """Additive attention mask, or None where every token may look at all up to itself."""
        padding = None if pad_mask is None else pad_mask[..., : start + time]
        if time == 1 or (start == 0 and padding is None):
            return padding
        future = torch.full((time, start + time), -math.inf, device=self._device)
        causal = future.triu_(start + 1)
        return causal if padding is None else causal + padding

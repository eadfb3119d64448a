"""Ways to run a model over whole windows; the fastest that gives the model's own logits is used.

All take right-padded batches without a mask: in a causal model no token sees what stands to its
right, so padding there changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from llmcli.engine.gpt2_weights import GPT2Weights, LayerNorm, supports
from llmcli.engine.kernels import Precision, unsupported
from llmcli.errors import UnsupportedModel
from llmcli.scoring.output_layer import ROWS_SLICE, Head, make_head, pick_logprobs

# How far two ways to compute the same log-probabilities may lie apart on a short text.
_PROBE_TOLERANCE = 1e-3
_PROBE_TOLERANCE_16 = 0.25


class Reader(Protocol):
    """Runs a batch of windows and gives what is asked of some of its positions."""

    def logprobs(self, ids: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities of tokens, float32 [positions].

        Args:
            ids: What the model reads, [batch, time].
            rows: Flat indices of positions into batch * time, ascending, [positions].
            targets: The token asked for at each of them, [positions].
        """
        ...

    def logits(self, ids: Tensor, rows: Tensor) -> Iterator[Tensor]:
        """Float32 logits of the positions, at most 128 at a time, [positions, vocab]."""
        ...


def rounds_weights_itself(config: Mapping[str, Any], device: str) -> bool:
    """Whether `make_reader` wants float32 weights whatever the precision of the products.

    Args:
        config: The content of config.json.
        device: Where the model runs.
    """
    return device == "cpu" and supports(config)


def make_reader(module: Any, *, precision: Precision = "float32") -> Reader:
    """The fastest way to read with a transformers model.

    GPT-2 has a forward pass of its own. Other models give their last hidden state to `Head` if
    a probe shows that their logits are nothing but its product with the output layer (no
    capping or scaling on the way); the rest are asked for logits a few positions at a time.

    Args:
        module: A causal language model of transformers, in eval mode.
        precision: Of the matrix products; int8 and int4 for GPT-2 on a processor only.

    Raises:
        UnsupportedModel: the precision is not to be had for this model.
    """
    on_cpu = module.device.type == "cpu"
    if type(module).__name__ == "GPT2LMHeadModel" and supports(module.config.to_dict()) and on_cpu:
        if why := unsupported(precision):
            raise UnsupportedModel(
                f"Precision {precision} cannot be used: {why}.", "Use --precision float32."
            )
        body = GPT2Body(GPT2Weights.from_module(module, precision))
        with torch.inference_mode():
            ids, rows = _probe(module.config.vocab_size, module.config.n_positions)
            head = make_head(module.lm_head.weight.detach(), precision, body(ids, rows))
        return HiddenReader(body, head)
    if precision in ("int8", "int4"):
        raise UnsupportedModel(
            f"Precision {precision} is for GPT-2 models on a processor.",
            "Use --precision bfloat16.",
        )
    layer = module.get_output_embeddings()
    if isinstance(layer, torch.nn.Linear):
        bias = None if layer.bias is None else layer.bias.detach()
        # In the weights' own precision, whatever that is on this device.
        reader = HiddenReader(ModuleBody(module), Head(layer.weight.detach(), bias))
        if _agrees(reader, module):
            return reader
    return LogitsReader(module)


def _probe(vocab_size: int, n_positions: int) -> tuple[Tensor, Tensor]:
    """A few tokens from all over the vocabulary, [1, time], and their positions, [time]."""
    time = min(64, n_positions)
    ids = torch.arange(time) * (vocab_size // time) if vocab_size > time else torch.zeros(time)
    return ids.to(torch.int64)[None], torch.arange(time)


def _agrees(reader: HiddenReader, module: Any) -> bool:
    """Whether the reader gives the module's own logits, up to a shift, on a few tokens."""
    ids = torch.arange(8, device=module.device)[None] % reader.vocab_size
    with torch.inference_mode():
        own = torch.log_softmax(module(input_ids=ids, use_cache=False).logits[0].float(), 1)
        found = torch.cat(list(reader.logits(ids, torch.arange(8, device=module.device))))
        if own.shape != found.shape:
            return False
        tolerance = _PROBE_TOLERANCE if module.dtype == torch.float32 else _PROBE_TOLERANCE_16
        return bool((own - torch.log_softmax(found, 1)).abs().max() < tolerance)


class Body(Protocol):
    """Everything of a model but its output layer."""

    def __call__(self, ids: Tensor, rows: Tensor) -> Tensor:
        """The last hidden states of some positions of ``ids`` [batch, time], [positions, width]."""
        ...


class HiddenReader:
    """A body, then the head over slices: the logits of a window never exist whole.

    Only positions that are scored reach the head; where windows overlap, that is what is saved.
    """

    def __init__(self, body: Body, head: Head) -> None:
        self._body = body
        self._head = head

    @property
    def vocab_size(self) -> int:
        """How many logits a position has."""
        return self._head.vocab_size

    def logprobs(self, ids: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        """See Reader."""
        return self._head.logprobs(self._body(ids, rows), targets)

    def logits(self, ids: Tensor, rows: Tensor) -> Iterator[Tensor]:
        """See Reader."""
        for hidden in torch.split(self._body(ids, rows), ROWS_SLICE):
            yield self._head.logits(hidden)


class ModuleBody:
    """A transformers model without its output layer."""

    def __init__(self, module: Any) -> None:
        self._model = module.base_model

    def __call__(self, ids: Tensor, rows: Tensor) -> Tensor:
        """See Body."""
        hidden: Tensor = self._model(input_ids=ids, use_cache=False).last_hidden_state
        return hidden.flatten(0, 1)[rows]


class LogitsReader:
    """Any causal model, asked for logits of a few positions at a time with its own cache."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def logprobs(self, ids: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        """See Reader."""
        found = [torch.empty(0, device=ids.device)]
        begin = 0
        for logits in self.logits(ids, rows):
            found.append(pick_logprobs(logits, targets[begin : begin + len(logits)]))
            begin += len(logits)
        return torch.cat(found)

    def logits(self, ids: Tensor, rows: Tensor) -> Iterator[Tensor]:
        """See Reader; windows are run one by one, since slices go through time."""
        batch, time = ids.shape
        for index in range(batch):
            cache = None
            for begin in range(0, time, ROWS_SLICE):
                end = min(begin + ROWS_SLICE, time)
                output = self._module(
                    input_ids=ids[index : index + 1, begin:end],
                    past_key_values=cache,
                    use_cache=True,
                )
                cache = output.past_key_values
                base = index * time
                wanted = rows[(rows >= base + begin) & (rows < base + end)] - base - begin
                if len(wanted):
                    yield output.logits[0, wanted].float()


class GPT2Body:
    """GPT-2's blocks over [batch, time], with the decoder's layers but no cache.

    Whatever the precision of the products, the residual stream and the layer norms are float32.
    The last block works on the positions asked for only.
    """

    def __init__(self, weights: GPT2Weights) -> None:
        self._weights = weights

    def __call__(self, ids: Tensor, rows: Tensor) -> Tensor:
        """See Body."""
        weights, shape = self._weights, self._weights.shape
        batch, time = ids.shape
        split = (batch, time, 3, shape.n_head, shape.n_embd // shape.n_head)
        x = (weights.wte[ids].float() + weights.wpe[:time].float()).flatten(0, 1)
        for layer, block in enumerate(weights.blocks):
            query, key, value = block.c_attn(self._norm(x, block.ln_1)).view(split).unbind(2)
            y = torch.nn.functional.scaled_dot_product_attention(
                query.transpose(1, 2),
                key.transpose(1, 2),
                value.transpose(1, 2),
                is_causal=True,
                scale=shape.attention_scale(layer),
            )
            y = y.transpose(1, 2).reshape(batch * time, shape.n_embd)
            if layer == shape.n_layer - 1 and len(rows) < batch * time:
                x, y = x[rows], y[rows]
            x += block.attn_c_proj(y)
            x += block.mlp_c_proj(block.c_fc(self._norm(x, block.ln_2)))
        return self._norm(x, weights.ln_f)

    def _norm(self, x: Tensor, norm: LayerNorm) -> Tensor:
        shape = self._weights.shape
        weight, bias = norm.weight.float(), norm.bias.float()
        return torch.layer_norm(x, (shape.n_embd,), weight, bias, shape.layer_norm_epsilon)

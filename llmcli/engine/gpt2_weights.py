"""A GPT-2 model's settings and weights, in the form that the fast decoder wants.

The model is Radford et al. 2019, "Language Models are Unsupervised Multitask Learners";
parameters and settings are named as transformers names them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor

from llmcli.engine.kernels import Activation, Linear, Precision, make_linear, quantize


@dataclass(frozen=True, slots=True, kw_only=True)
class GPT2Shape:
    """What config.json says that the decoder needs."""

    n_layer: int
    n_head: int
    n_embd: int
    n_positions: int
    vocab_size: int
    activation_function: Activation
    layer_norm_epsilon: float
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> GPT2Shape:
        """Take the fields from a config.json's content; absent ones as transformers has them."""
        return cls(
            n_layer=config.get("n_layer", 12),
            n_head=config.get("n_head", 12),
            n_embd=config.get("n_embd", 768),
            n_positions=config.get("n_positions", 1024),
            vocab_size=config.get("vocab_size", 50257),
            activation_function=config.get("activation_function", "gelu_new"),
            layer_norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
            scale_attn_weights=config.get("scale_attn_weights", True),
            scale_attn_by_inverse_layer_idx=config.get("scale_attn_by_inverse_layer_idx", False),
        )

    def attention_scale(self, layer: int) -> float:
        """The factor on the attention scores of a layer, counted from 0."""
        scale = float((self.n_embd // self.n_head) ** -0.5) if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale


def supports(config: Mapping[str, Any]) -> bool:
    """Whether the fast decoder computes what a config.json describes."""
    return (
        config.get("model_type") == "gpt2"
        and config.get("activation_function", "gelu_new") in get_args(Activation)
        and not config.get("add_cross_attention", False)
        and "quantization_config" not in config
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNorm:
    """Scale and shift of a layer norm, each [n_embd], float32."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One transformer block; the names are transformers'."""

    ln_1: LayerNorm
    c_attn: Linear
    attn_c_proj: Linear
    ln_2: LayerNorm
    c_fc: Linear
    mlp_c_proj: Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class GPT2Weights:
    """A whole model; ``wte`` [vocab, n_embd] and ``wpe`` [n_positions, n_embd] for look-up."""

    shape: GPT2Shape
    wte: Tensor
    wpe: Tensor
    blocks: tuple[Block, ...]
    ln_f: LayerNorm
    lm_head: Linear

    @property
    def nbytes(self) -> int:
        """Bytes of weights that a step reads."""
        linears = [
            linear
            for block in self.blocks
            for linear in (block.c_attn, block.attn_c_proj, block.c_fc, block.mlp_c_proj)
        ]
        return sum(linear.nbytes for linear in (*linears, self.lm_head))

    @classmethod
    def from_module(cls, module: Any, precision: Precision = "float32") -> GPT2Weights:
        """Take the weights of a transformers GPT2LMHeadModel; float32 shares its storage."""
        shape = GPT2Shape.from_config(module.config.to_dict())
        state = module.state_dict()
        return assemble(shape, dict(store(shape, state, precision)))


_LINEARS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
_NORMS = ("ln_1", "ln_2")


def store(
    shape: GPT2Shape,
    state: Mapping[str, Tensor],
    precision: Precision | None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of all that :func:`assemble` needs, one layer in memory at a time.

    Args:
        shape: The model's settings.
        state: The state_dict of a GPT2LMHeadModel, or a file's tensors by the same names.
        precision: Of the linear layers; the head of an int4 model is int8, because its errors
            go straight into the logits. Embeddings and layer norms stay as they are, and with
            None they and the biases are all there is.
    """
    prefix = "transformer." if "transformer.wte.weight" in state else ""
    yield "wte.weight", state[f"{prefix}wte.weight"]
    for name in ("wpe.weight", "ln_f.weight", "ln_f.bias"):
        yield name, _wide(state[prefix + name])
    for layer in range(shape.n_layer):
        for norm in _NORMS:
            for part in ("weight", "bias"):
                name = f"h.{layer}.{norm}.{part}"
                yield name, _wide(state[prefix + name])
        for linear in _LINEARS:
            name = f"h.{layer}.{linear}"
            # transformers' Conv1D keeps [in, out].
            yield f"{name}.bias", _wide(state[f"{prefix}{name}.bias"])
            if precision is not None:
                weight = state[f"{prefix}{name}.weight"].t()
                for form, tensor in quantize(weight, precision).items():
                    yield f"{name}.{form}", tensor
    if precision is None:
        return
    head = state.get("lm_head.weight", state[f"{prefix}wte.weight"])
    head_precision: Precision = "int8" if precision == "int4" else precision
    for form, tensor in quantize(head, head_precision).items():
        yield f"lm_head.{form}", tensor


def _wide(tensor: Tensor) -> Tensor:
    """float32 on a processor; a CUDA device computes in the weights' own type."""
    return tensor if tensor.is_cuda else tensor.float()


def assemble(shape: GPT2Shape, stored: Mapping[str, Tensor]) -> GPT2Weights:
    """Build a model of what :func:`store` yielded; float32 tensors are used where they lie."""

    def norm(name: str) -> LayerNorm:
        return LayerNorm(weight=stored[f"{name}.weight"], bias=stored[f"{name}.bias"])

    def linear(name: str, activation: Activation | None = None) -> Linear:
        forms = {key.removeprefix(f"{name}."): stored[key] for key in by_name[name]}
        return make_linear(forms, stored.get(f"{name}.bias"), activation)

    by_name: dict[str, list[str]] = {}
    for key in stored:
        by_name.setdefault(key.rpartition(".")[0], []).append(key)
    # First, for packing it takes the most memory, of which the others then use what is freed.
    lm_head = linear("lm_head")
    blocks = tuple(
        Block(
            ln_1=norm(f"h.{layer}.ln_1"),
            c_attn=linear(f"h.{layer}.attn.c_attn"),
            attn_c_proj=linear(f"h.{layer}.attn.c_proj"),
            ln_2=norm(f"h.{layer}.ln_2"),
            c_fc=linear(f"h.{layer}.mlp.c_fc", shape.activation_function),
            mlp_c_proj=linear(f"h.{layer}.mlp.c_proj"),
        )
        for layer in range(shape.n_layer)
    )
    return GPT2Weights(
        shape=shape,
        wte=stored["wte.weight"],
        wpe=stored["wpe.weight"],
        blocks=blocks,
        ln_f=norm("ln_f"),
        lm_head=lm_head,
    )

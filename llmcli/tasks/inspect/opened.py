"""A transformers model opened up: its layers, heads and last norm, and what passes through them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llmcli.errors import NumericalError, UnsupportedModel

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel

# How transformers' causal models call their parts, from GPT-2 over BLOOM to the Llama family.
_INNER = ("decoder", "language_model")
_LAYERS = ("h", "layers", "blocks")
_NORMS = ("ln_f", "norm", "final_layer_norm", "final_layernorm")
_ATTENTION = ("attn", "self_attn", "attention", "self_attention")
_PROJECTIONS = ("c_proj", "o_proj", "out_proj", "dense")
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25}
HEAD_ROWS = 256  # of 50,257 float32 logits: 51 MB

Head = tuple[int, int]
OnAttention = Callable[[int, Tensor], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A model's parts, found and checked.

    Attributes:
        name: The model's name, for messages.
        module: The transformers model, without gradients of its weights.
        layers: Its blocks.
        attention: The attention of each block.
        projections: What each attention's heads go through together, [heads * head width] wide.
        norm: The norm before the output layer.
        n_heads: Heads of each layer.
    """

    name: str
    module: Any
    layers: Sequence[nn.Module]
    attention: Sequence[nn.Module]
    projections: Sequence[nn.Module]
    norm: nn.Module
    n_heads: int

    @property
    def n_layers(self) -> int:
        """How many layers there are."""
        return len(self.layers)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.embeddings.device

    @property
    def embeddings(self) -> Tensor:
        """The input embeddings, [vocab, width]."""
        weight: Tensor = self.module.get_input_embeddings().weight
        return weight

    def tensor(self, ids: Sequence[int]) -> Tensor:
        """Token ids as the model takes them, [1, tokens]."""
        return torch.tensor([list(ids)], device=self.device)

    @torch.inference_mode()
    def residuals(
        self,
        ids: Sequence[int],
        *,
        start: int = 0,
        off: Sequence[Head] = (),
        on_attention: OnAttention | None = None,
    ) -> Tensor:
        """Read a text; return the residual stream before each layer and after the last.

        transformers' own last hidden state has gone through the final norm; this one has not.

        Args:
            ids: The text.
            start: The first position whose states are kept.
            off: Heads, as (layer, head), whose output is put to zero.
            on_attention: Called with each layer and its weights [heads, query, key].

        Returns:
            Shape [layers + 1, tokens - start, width], of the model's type.

        Raises:
            UnsupportedModel: the attention gives no weights.
        """
        kept: list[Tensor] = []

        def keep(_: nn.Module, args: Any, kwargs: Any) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            kept.append(hidden[0, start:].clone())

        with _Hooks() as hooks:
            for layer in self.layers:
                hooks.add(layer.register_forward_pre_hook(keep, with_kwargs=True))
            hooks.add(self.norm.register_forward_pre_hook(keep, with_kwargs=True))
            if on_attention is not None:
                for index, attention in enumerate(self.attention):
                    hooks.add(attention.register_forward_hook(self._watch(index, on_attention)))
            for layer_index, head in off:
                hooks.add(self._switch_off(layer_index, head))
            self.module.base_model(self.tensor(ids), use_cache=False)
        return torch.stack(kept)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Send residual states through the final norm and the output layer, as the model does.

        A pass over one token runs the model's own code from the norm on, with these states in
        the place of the token's: whatever a model scales or caps its logits by is in them.

        Args:
            hidden: Shape [rows, width].

        Returns:
            Float32 logits, [rows, vocab].

        Raises:
            NumericalError: they are NaN or infinite.
        """
        handle = self.norm.register_forward_pre_hook(lambda _, args: (hidden[:, None],))
        try:
            result = self.module(self.tensor([0]), use_cache=False).logits[:, -1].float()
        finally:
            handle.remove()
        if not torch.isfinite(result).all():
            raise NumericalError(
                f"{self.name}: the logits are NaN or infinite.",
                "Use --precision float32, or another model.",
            )
        found: Tensor = result
        return found

    def logprobs(self, hidden: Tensor) -> Tensor:
        """Natural log-probabilities of the next token, [rows, vocab], of residual states."""
        return torch.log_softmax(self.logits(hidden), dim=-1)

    def from_embeddings(self, embeddings: Tensor) -> Tensor:
        """Float32 logits after the last token, [rows, vocab], of embeddings [rows, tokens, width].

        Gradients flow back to the embeddings.
        """
        keep = {"logits_to_keep": 1} if self._keeps_logits() else {}
        result = self.module(inputs_embeds=embeddings, use_cache=False, **keep)
        last: Tensor = result.logits[:, -1].float()
        return last

    def _keeps_logits(self) -> bool:
        return "logits_to_keep" in inspect.signature(self.module.forward).parameters

    def _watch(self, index: int, on_attention: OnAttention) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            weights = next(
                (each for each in output if isinstance(each, Tensor) and each.dim() == 4), None
            )
            if weights is None or weights.shape[1] != self.n_heads:
                raise UnsupportedModel(
                    f"{self.name}: the attention of layer {index} gives no weights for each head.",
                    "Use a GPT-2 model or one of the Llama family.",
                )
            on_attention(index, weights[0].float())

        return hook

    def _switch_off(self, layer: int, head: int) -> Any:
        def silence(_: nn.Module, args: Any) -> Any:
            (heads,) = args
            width = heads.shape[-1] // self.n_heads
            heads = heads.clone()
            heads[..., head * width : (head + 1) * width] = 0
            return (heads,)

        return self.projections[layer].register_forward_pre_hook(silence)


@dataclass(slots=True)
class _Hooks:
    """Hooks that are gone when the block ends."""

    handles: list[Any] = field(default_factory=list)

    def __enter__(self) -> _Hooks:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def add(self, handle: Any) -> None:
        self.handles.append(handle)


def open_model(model: LanguageModel) -> Opened:
    """Load a model with attention that shows its weights, and find its parts.

    Raises:
        UnsupportedModel: a precision or an architecture that cannot be looked into.
        ModelError: the model cannot be loaded.
    """
    if model.precision not in ("float32", "bfloat16"):
        raise UnsupportedModel(
            f"The inside of a model is not seen at precision {model.precision}.",
            "Use --precision float32 or bfloat16.",
        )
    from llmcli.models.weights import load_module

    return open_module(load_module(model, attn_implementation="eager"), model.name)


def open_module(module: Any, name: str) -> Opened:
    """Find a transformers module's parts; ``name`` is for messages.

    Raises:
        UnsupportedModel: a part is missing, or the model computes its logits in another way.
    """
    module.requires_grad_(False)
    inner = module.base_model
    for attribute in _INNER:
        inner = getattr(inner, attribute, inner)
    layers = list(_part(inner, _LAYERS, name, "list of layers"))
    attention = [_deepest(_part(layer, _ATTENTION, name, "attention")) for layer in layers]
    opened = Opened(
        name=name,
        module=module,
        layers=layers,
        attention=attention,
        projections=[_part(each, _PROJECTIONS, name, "output projection") for each in attention],
        norm=_part(inner, _NORMS, name, "norm before the output layer"),
        n_heads=int(module.config.get_text_config().num_attention_heads),
    )
    _check(opened)
    return opened


def _part(parent: Any, names: Sequence[str], model: str, what: str) -> Any:
    for name in names:
        if (found := getattr(parent, name, None)) is not None:
            return found
    raise UnsupportedModel(
        f"{model} cannot be looked into: its architecture has no {what} that is known here.",
        "Use a GPT-2 model or one of the Llama family.",
    )


def _deepest(attention: Any) -> Any:
    """GPT-Neo's attention lies in a module that holds one of two kinds of it."""
    return getattr(attention, "attention", attention)


@torch.inference_mode()
def _check(opened: Opened) -> None:
    """Compare logits made from the last residual state with the model's own, on a few tokens."""
    ids = list(range(min(4, len(opened.embeddings))))
    own = opened.module(opened.tensor(ids), use_cache=False).logits[0].float()
    ours = opened.logits(opened.residuals(ids)[-1])
    tolerance = _TOLERANCE.get(opened.embeddings.dtype, 1e-3) * max(1.0, float(own.abs().max()))
    if own.shape != ours.shape or not torch.allclose(own, ours, rtol=0, atol=tolerance):
        raise UnsupportedModel(
            f"{opened.name} cannot be looked into: its logits are not made from its last norm "
            "alone.",
            "Use a GPT-2 model or one of the Llama family.",
        )


def parts(tensor: Tensor, size: int, dim: int = 0) -> Iterator[Tensor]:
    """Cut a tensor into parts of ``size`` along a dimension, the last may be smaller."""
    length = tensor.shape[dim]
    for start in range(0, length, size):
        yield tensor.narrow(dim, start, min(size, length - start))


@contextmanager
def within_memory(what: str) -> Iterator[None]:
    """Fail with a sentence, not by a kill, where ``what`` needs more memory than there is.

    Raises:
        OutOfMemory: more is needed.
    """
    from llmcli.errors import OutOfMemory, is_out_of_memory
    from llmcli.system import bounded_memory

    try:
        with bounded_memory(1):
            yield
    except (MemoryError, RuntimeError) as exc:
        if not is_out_of_memory(exc):
            raise
        raise OutOfMemory(
            f"{what} does not fit into memory.", "Use a shorter text (--position), or bfloat16."
        ) from exc

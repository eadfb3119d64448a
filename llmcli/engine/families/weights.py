"""From a family's names of weights to the roles that a blueprint gives them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from llmcli.engine.blueprint import Blueprint, roles
from llmcli.engine.families.fields import Refusal

Array = npt.NDArray[Any]
# Buffers that a state_dict may hold and a forward pass recomputes.
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".attention.bias", ".rotary_emb.inv_freq",
            ".embed_positions", ".masked_bias")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What a family calls its weights, less ``.weight`` and ``.bias``.

    A layer's names follow ``layers``, in which ``{}`` stands for its number. Empty is for what
    a family has not. Where queries, keys and values lie in one tensor, ``qkv`` names it and
    ``qkv_layout`` says how: one after the other, or for each key/value head its queries, its
    key and its value.

    Attributes:
        transposed: Whether linear weights of layers are [in, out].
        norm_offset: Added to every norm's weights.
        residual_scale: Factor on what a sub-layer adds.
        logit_scale: Factor on logits.
        interleaved: How many dimensions of a head turn as pairs of neighbours; 0 for none.
    """

    embedding: str
    layers: str
    qkv: str | tuple[str, str, str]
    attention_out: str
    up: str
    down: str
    final_norm: str = ""
    positions: str = ""
    embedding_norm: str = ""
    head: str = "lm_head"
    attention_norm: str = ""
    mlp_norm: str = ""
    attention_post_norm: str = ""
    mlp_post_norm: str = ""
    query_norm: str = ""
    key_norm: str = ""
    gate: str = ""
    gate_up: str = ""
    qkv_layout: Literal["stacked", "grouped"] = "stacked"
    transposed: bool = False
    norm_offset: float = 0.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    interleaved: int = 0


class State:
    """A model's tensors, float32 as they are asked for; knows which were."""

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        self._tensors = tensors
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def take(self, name: str) -> Array:
        """A tensor, float32.

        Raises:
            Refusal: there is none of this name.
        """
        if name not in self._tensors:
            raise Refusal(f"there is no tensor {name}")
        self._taken.add(name)
        tensor = self._tensors[name]
        array = tensor if isinstance(tensor, np.ndarray) else tensor.float().numpy()
        return array.astype(np.float32, copy=False)

    def left(self, blueprint: Blueprint, names: Names) -> list[str]:
        """Tensors that nothing asked for and that mean something."""
        known = {f"{names.head}.weight"} if blueprint.tied else set()
        return sorted(
            name
            for name in self._tensors.keys() - self._taken - known
            if not name.endswith(_BUFFERS)
        )


def by_role(
    blueprint: Blueprint, names: Names, tensors: Mapping[str, Any]
) -> Iterator[tuple[str, Array]]:
    """Yield (role, float32 array) of every weight and bias, one layer in memory at a time.

    Args:
        blueprint: The model.
        names: What its family calls the weights.
        tensors: The state_dict of transformers' module: torch tensors or numpy arrays.

    Raises:
        Refusal: a tensor is missing, left over, or of another shape than the blueprint says.
    """
    state = State(tensors)
    shapes = dict(roles(blueprint))
    for role, array in _all(blueprint, names, state):
        place, _, part = role.rpartition(".")
        expected = shapes.pop(role, None) if part == "weight" else None
        if part == "bias":
            expected = (blueprint.vocab_size,) if place == "head" else array.shape[:1]
        if array.shape != expected:
            raise Refusal(f"{role} has shape {list(array.shape)}")
        yield role, array
    if shapes:
        raise Refusal(f"there is no {min(shapes)}")
    if left := state.left(blueprint, names):
        raise Refusal(f"nothing here uses the tensor {left[0]}")


def _all(blueprint: Blueprint, names: Names, state: State) -> Iterator[tuple[str, Array]]:
    yield "embedding.weight", state.take(f"{names.embedding}.weight")
    if names.positions:
        yield "positions.weight", state.take(f"{names.positions}.weight")
    if names.embedding_norm:
        yield from _norm("embedding_norm", names.embedding_norm, names, state)
    for index in range(len(blueprint.layers)):
        for role, array in _layer(blueprint, names, state, names.layers.format(index)):
            yield f"layers.{index}.{role}", array
    if names.final_norm:
        for role, array in _norm("final_norm", names.final_norm, names, state):
            yield role, array * np.float32(names.logit_scale)
    if not blueprint.tied:
        yield "head.weight", state.take(f"{names.head}.weight")
    if f"{names.head}.bias" in state:
        yield "head.bias", state.take(f"{names.head}.bias") * np.float32(names.logit_scale)


def _norm(role: str, name: str, names: Names, state: State) -> Iterator[tuple[str, Array]]:
    yield f"{role}.weight", state.take(f"{name}.weight") + np.float32(names.norm_offset)
    if f"{name}.bias" in state:
        yield f"{role}.bias", state.take(f"{name}.bias")


def _layer(
    blueprint: Blueprint, names: Names, state: State, prefix: str
) -> Iterator[tuple[str, Array]]:
    for role in ("attention_norm", "mlp_norm", "attention_post_norm", "mlp_post_norm"):
        if name := getattr(names, role):
            yield from _norm(role, prefix + name, names, state)
    yield from _qkv(blueprint, names, state, prefix)
    for role, heads in (("query_norm", blueprint.heads), ("key_norm", blueprint.kv_heads)):
        if name := getattr(names, role):
            yield from _head_norm(role, prefix + name, heads, blueprint, names, state)
    scale = np.float32(names.residual_scale)
    for role in ("attention_out", "gate", "up", "down"):
        if not (name := getattr(names, role)):
            continue
        for part, array in _linear(prefix + name, names, state):
            scaled = array * scale if role in ("attention_out", "down") and scale != 1 else array
            yield f"{role}.{part}", scaled
    if names.gate_up:
        for part, array in _linear(prefix + names.gate_up, names, state):
            yield f"gate.{part}", array[: len(array) // 2]
            yield f"up.{part}", array[len(array) // 2 :]


def _linear(name: str, names: Names, state: State) -> Iterator[tuple[str, Array]]:
    weight = state.take(f"{name}.weight")
    yield "weight", weight.T if names.transposed else weight
    if f"{name}.bias" in state:
        yield "bias", state.take(f"{name}.bias")


def _qkv(
    blueprint: Blueprint, names: Names, state: State, prefix: str
) -> Iterator[tuple[str, Array]]:
    size, groups = blueprint.head_size, blueprint.kv_heads
    if isinstance(names.qkv, tuple):
        parts = [dict(_linear(prefix + name, names, state)) for name in names.qkv]
        kinds = parts[0].keys()
        if any(part.keys() != kinds for part in parts):
            raise Refusal("only some of queries, keys and values have a bias")
        joined = {kind: np.concatenate([part[kind] for part in parts]) for kind in kinds}
    else:
        joined = dict(_linear(prefix + names.qkv, names, state))
    for kind, array in joined.items():
        if names.qkv_layout == "grouped":
            if len(array) != (blueprint.heads + 2 * groups) * size:
                raise Refusal(f"{names.qkv} has {len(array)} outputs")
            split = array.reshape(groups, -1, size, *array.shape[1:])
            parts_ = (split[:, :-2], split[:, -2], split[:, -1])
            array = np.concatenate([each.reshape(-1, *array.shape[1:]) for each in parts_])
        if names.interleaved:
            array = _by_halves(array, blueprint, names.interleaved)
        yield f"qkv.{kind}", array


def _by_halves(array: Array, blueprint: Blueprint, turning: int) -> Array:
    """Reorder the dimensions of queries and keys so that pairs lie half a rotation apart.

    Queries and keys change alike, so their products stay.
    """
    size = blueprint.head_size
    order = np.r_[0:turning:2, 1:turning:2, turning:size]
    count = (blueprint.heads + blueprint.kv_heads) * size
    heads = array[:count].reshape(-1, size, *array.shape[1:])[:, order]
    return np.concatenate([heads.reshape(count, *array.shape[1:]), array[count:]])


def _head_norm(
    role: str, name: str, heads: int, blueprint: Blueprint, names: Names, state: State
) -> Iterator[tuple[str, Array]]:
    """A norm of queries or keys: one for all heads is written out for each."""
    if f"{name}.norms.0.weight" in state:
        weights = [state.take(f"{name}.norms.{head}.weight") for head in range(heads)]
        yield f"{role}.weight", np.concatenate(weights)
        return
    for kind, array in _norm(role, name, names, state):
        whole = blueprint.query_key_norm_whole
        yield kind, array if whole else np.tile(array, heads)

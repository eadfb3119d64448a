"""A model in the form that our own kernels read: packed weights under a blueprint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcli.engine.blueprint import Blueprint
from llmcli.engine.native import panels
from llmcli.engine.native.library import Precision
from llmcli.engine.native.model import NativeModel

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

# Of an element of keys and values, by the precision of the weights.
_CACHE_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1, "int4": 1}


def pack(
    blueprint: Blueprint, weights: Iterable[tuple[str, Floats]], precision: Precision
) -> Iterator[tuple[str, Array]]:
    """Yield the arrays that :class:`PackedModel` wants, one layer in memory at a time.

    The head of an int4 model is int8, because its errors go straight into the logits. Norms,
    biases and the embedding, of which a step reads one row, stay float32; a tied float32 head
    holds the embedding.

    Args:
        blueprint: The model.
        weights: What :func:`llmcli.engine.families.by_role` yields.
        precision: Of linear layers.
    """
    gates: dict[str, Floats] = {}
    for role, array in weights:
        place, _, part = role.rpartition(".")
        kind = place.rpartition(".")[2]
        if kind == "gate":
            gates[part] = array
        elif kind == "up" and blueprint.gated:
            joined = panels.gated(gates[part], array)
            yield from _packed(place, part, joined, precision)
        elif role == "embedding.weight":
            shared = blueprint.tied and precision == "float32"
            if not shared:
                yield role, array
            if blueprint.tied:
                yield from _packed("head", part, array, _of_head(precision))
        elif place == "head":
            yield from _packed(place, part, array, _of_head(precision))
        elif kind in ("qkv", "attention_out", "up", "down"):
            yield from _packed(place, part, array, precision)
        else:
            yield role, np.ascontiguousarray(array)


def _of_head(precision: Precision) -> Precision:
    return "int8" if precision == "int4" else precision


def _packed(
    place: str, part: str, array: Floats, precision: Precision
) -> Iterator[tuple[str, Array]]:
    if part == "bias":
        yield f"{place}.bias", np.ascontiguousarray(array)
        return
    for form, packed in panels.pack(array, precision).items():
        yield f"{place}.{form}", packed


class PackedModel:
    """Weights for the kernels, and the embedding; several decoders may share them.

    Args:
        blueprint: The model.
        arrays: What :func:`pack` yielded; kept, for the library points into them.

    Attributes:
        blueprint: The model.
        native: Its layers and head, as the library knows them.
        precision: Of the layers' weights.

    Raises:
        ValueError: arrays are missing or have other sizes than the blueprint says.
        RuntimeError: there is no library.
    """

    def __init__(self, blueprint: Blueprint, arrays: Mapping[str, Array]) -> None:
        self.blueprint = blueprint
        place = "layers.0.qkv" if blueprint.layers else "head"
        try:
            self.precision = panels.precision_of({"panels": arrays[f"{place}.panels"]})
        except KeyError:
            raise ValueError(f"{place} is missing") from None
        self.native = NativeModel(blueprint, arrays, cache_bytes=_CACHE_BYTES[self.precision])
        self._embedding = self._rows(arrays, "embedding.weight", blueprint.vocab_size)
        if self._embedding is None and not blueprint.tied:
            raise ValueError("embedding.weight is missing")
        self._head = {
            form: arrays[f"head.{form}"]
            for form in ("panels", "scales", "size")
            if f"head.{form}" in arrays
        }
        self._positions: Floats | None = None
        if blueprint.positions:
            rows = blueprint.positions + blueprint.position_offset
            self._positions = self._rows(arrays, "positions.weight", rows)
            if self._positions is None:
                raise ValueError("positions.weight is missing")

    def _rows(self, arrays: Mapping[str, Array], name: str, count: int) -> Floats | None:
        array = arrays.get(name)
        if array is not None and (
            array.shape != (count, self.blueprint.width) or array.dtype != np.float32
        ):
            raise ValueError(f"{name} is not float32 [{count}, {self.blueprint.width}]")
        return array

    @property
    def nbytes(self) -> int:
        """Bytes of weights that a step reads."""
        return self.native.nbytes

    def embed(self, ids: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> Floats:
        """Rows of the embedding, and of positions where they are learned: [tokens, width].

        Raises:
            ValueError: an id or a position has no row.
        """
        blueprint = self.blueprint
        if len(ids) and not 0 <= ids.min() <= ids.max() < blueprint.vocab_size:
            raise ValueError(f"a token that is none of {blueprint.vocab_size}")
        if self._embedding is not None:
            rows: Floats = self._embedding[ids]
        else:
            rows = panels.rows_of(self._head, ids)
        if blueprint.embedding_scale != 1:
            rows *= np.float32(blueprint.embedding_scale)
        if self._positions is not None:
            at = positions + blueprint.position_offset
            if len(at) and at.max() >= len(self._positions):
                raise ValueError(f"a position beyond {blueprint.positions}")
            rows += self._positions[at]
        return rows

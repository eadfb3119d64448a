"""A whole model over the library: a blueprint and packed weights, as ``struct model``."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcli.engine.blueprint import Blueprint, NormKind
from llmcli.engine.native.library import (
    ACTIVATIONS,
    NORMS,
    Array,
    Layer,
    Linear,
    Model,
    Norm,
    Rotation,
    Slot,
    Tokens,
    Workspace,
    address,
    library,
)
from llmcli.engine.native.panels import linear
from llmcli.engine.row_stats import ROW_STATS

Floats = npt.NDArray[np.float32]

_workspace = Workspace()


class SlotMemory:
    """Memory for one text's keys and values; freed with the object.

    It is reserved for ``room`` tokens, and committed as they are written.

    Attributes:
        room: A multiple of 64, at least what was asked for.
        nbytes: What it takes when it is full.
    """

    def __init__(self, model: NativeModel, room: int) -> None:
        self._model = model
        self.room = -(-max(room, 1) // 64) * 64
        self.nbytes = model.library.llmcli_slot_bytes(model.reference, self.room)
        self.pointer: int | None = model.library.llmcli_slot_new(self.nbytes)
        if self.pointer is None:
            raise MemoryError(f"{self.nbytes} bytes for {self.room} tokens")

    def copy_from(self, other: SlotMemory, length: int) -> None:
        """Take over the first ``length`` positions of another slot of the same model."""
        if not 0 <= length <= min(self.room, other.room):
            raise ValueError(f"{length} positions of {other.room} into {self.room}")
        self._model.library.llmcli_slot_copy(
            self._model.reference, other.pointer, other.room, self.pointer, self.room, length
        )

    def copy_block(self, other: SlotMemory, source: int, target: int) -> None:
        """Take over block ``source`` (64 positions) of another slot of the model as ``target``."""
        if not (0 <= source < other.room // 64 and 0 <= target < self.room // 64):
            raise ValueError(f"block {source} of {other.room} into {target} of {self.room}")
        self._model.library.llmcli_block_copy(
            self._model.reference,
            other.pointer,
            other.room,
            source,
            self.pointer,
            self.room,
            target,
        )

    def trim(self, length: int) -> None:
        """Give back the memory of what is beyond ``length`` positions, as far as whole pages go."""
        if not 0 <= length <= self.room:
            raise ValueError(f"{length} positions of {self.room}")
        self._model.library.llmcli_slot_trim(self._model.reference, self.pointer, self.room, length)

    def close(self) -> None:
        """Give the memory back."""
        if self.pointer is not None:
            self._model.library.llmcli_slot_free(self.pointer, self.nbytes)
            self.pointer = None

    def __del__(self) -> None:
        if getattr(self, "pointer", None) is not None:
            self.close()


class NativeModel:
    """A model that the library computes.

    Args:
        blueprint: What is computed.
        arrays: Weights by role (:func:`llmcli.engine.blueprint.roles`). A linear layer's
            ``X.weight`` is packed: ``X.panels``, ``X.scales``, ``X.size``; biases and norms are
            float32. Where the network is gated, ``layers.N.up`` holds gate and up as
            :func:`llmcli.engine.native.panels.gated` joins them. Tied weights stand under
            ``head`` as well, or only there: embeddings are looked up elsewhere.
        cache_bytes: Of an element of keys and values: 4 is float32, 2 float16, 1 int8 with a
            factor for each key and value.

    Raises:
        ValueError: an array is missing, or has another size or type than the blueprint says.
        RuntimeError: there is no library.
    """

    def __init__(
        self, blueprint: Blueprint, arrays: Mapping[str, Array], *, cache_bytes: int
    ) -> None:
        loaded = library()
        if loaded is None:
            raise RuntimeError("no library")
        self.library = loaded
        self.blueprint = blueprint
        self._arrays = arrays
        self._kept: list[Any] = []
        self.nbytes = 0
        layers = (Layer * len(blueprint.layers))(
            *(self._layer(index) for index in range(len(blueprint.layers)))
        )
        alibi = np.array(blueprint.alibi, np.float32) if blueprint.alibi else None
        if alibi is not None and len(alibi) != blueprint.heads:
            raise ValueError("not one slope for each head")
        self._kept += [layers, alibi]
        width = blueprint.width
        self._model = Model(
            n_layer=len(blueprint.layers),
            width=width,
            heads=blueprint.heads,
            kv_heads=blueprint.kv_heads,
            head_dim=blueprint.head_size,
            inner=blueprint.inner,
            activation=ACTIVATIONS[blueprint.activation],
            gated=blueprint.gated,
            parallel=blueprint.parallel,
            shared_norm=blueprint.shared_norm,
            whole_norm=blueprint.query_key_norm_whole,
            cache_bytes=cache_bytes,
            attention_cap=blueprint.attention_cap,
            logit_cap=blueprint.logit_cap,
            alibi=address(alibi),
            layers=ctypes.cast(layers, ctypes.POINTER(Layer)),
            embedding_norm=self._norm("embedding_norm", width, blueprint.embedding_norm),
            final_norm=self._norm("final_norm", width, blueprint.final_norm),
            head=self._linear("head", blueprint.vocab_size, width),
        )
        self.reference = ctypes.byref(self._model)
        if fault := loaded.llmcli_model_fault(self.reference):
            raise ValueError(fault.decode())
        self._frequencies = [
            (np.array(each.frequencies, np.float32), np.float64(each.scale))
            for each in blueprint.rotaries
        ]

    # -- what it is made of ------------------------------------------------------------------

    def _layer(self, index: int) -> Layer:
        b, at = self.blueprint, f"layers.{index}."
        before, after = b.placement in ("before", "both"), b.placement != "before"
        if b.placement == "post":
            raise ValueError("norms on the sum are not computed here")
        queries, keys = b.heads * b.head_size, b.kv_heads * b.head_size
        inner = 2 * -(-b.inner // 16) * 16 if b.gated else b.inner
        layer = b.layers[index]
        return Layer(
            attention_norm=self._norm(f"{at}attention_norm", b.width, before),
            mlp_norm=self._norm(f"{at}mlp_norm", b.width, before and not b.shared_norm),
            attention_post_norm=self._norm(f"{at}attention_post_norm", b.width, after),
            mlp_post_norm=self._norm(f"{at}mlp_post_norm", b.width, after),
            query_norm=self._norm(
                f"{at}query_norm", queries, b.query_key_norm is not None, b.query_key_norm
            ),
            key_norm=self._norm(
                f"{at}key_norm", keys, b.query_key_norm is not None, b.query_key_norm
            ),
            qkv=self._linear(f"{at}qkv", queries + 2 * keys, b.width),
            attention_out=self._linear(f"{at}attention_out", b.width, queries),
            up=self._linear(f"{at}up", inner, b.width),
            down=self._linear(f"{at}down", b.width, b.inner),
            rotary=-1 if layer.rotary is None else layer.rotary,
            window=layer.window or 0,
            scale=layer.scale,
        )

    def _floats(self, name: str, count: int, *, needed: bool) -> Array | None:
        array = self._arrays.get(name)
        if array is None and not needed:
            return None
        if array is None or array.dtype != np.float32 or array.shape != (count,):
            raise ValueError(f"{name} is not float32 [{count}]")
        self._kept.append(array)
        return array

    def _norm(self, name: str, count: int, there: bool, kind: NormKind | None = None) -> Norm:
        if not there:
            return Norm()
        return Norm(
            kind=NORMS[kind or self.blueprint.norm],
            epsilon=self.blueprint.epsilon,
            weight=address(self._floats(f"{name}.weight", count, needed=True)),
            bias=address(self._floats(f"{name}.bias", count, needed=False)),
        )

    def _linear(self, name: str, outputs: int, inputs: int) -> Linear:
        parts = ("panels", "scales", "size")
        packed = {p: self._arrays[f"{name}.{p}"] for p in parts if f"{name}.{p}" in self._arrays}
        if "panels" not in packed or "size" not in packed:
            raise ValueError(f"{name} is missing")
        if packed["size"].tolist() != [outputs, inputs]:
            raise ValueError(f"{name} is not [{outputs}, {inputs}]")
        self._kept.append(packed)
        self.nbytes += sum(packed[part].nbytes for part in parts[:2] if part in packed)
        return linear(packed, self._floats(f"{name}.bias", outputs, needed=False))

    # -- what it computes --------------------------------------------------------------------

    def forward(
        self,
        hidden: Floats,
        slots: Sequence[SlotMemory],
        slot: Sequence[int] | Array,
        position: Sequence[int] | Array,
        outputs: Sequence[int] | Array,
        *,
        threads: int,
        states: bool = False,
        canonical: npt.NDArray[np.uint8] | None = None,
    ) -> Floats:
        """Append tokens to slots.

        The bits of what is returned depend on the model, the level and the tokens before each
        one, and on nothing else.

        Args:
            hidden: Embeddings [count, width], before any norm; overwritten.
            slots: Where keys and values go.
            slot: For each token, an index into ``slots``.
            position: For each token, how many there are before it in its slot. Tokens of a slot
                stand in ascending order, with no gap.
            outputs: Which tokens are asked about.
            threads: How many may work.
            states: Whether to return what the head reads instead of logits.
            canonical: For each token, whether its block of 64 positions lies wholly in the
                prompt; such tokens may be multiplied in bfloat16 on matrix units.

        Returns:
            Logits [outputs, vocab], or states [outputs, width].

        Raises:
            ValueError: a shape or a position does not fit.
        """
        where = np.ascontiguousarray(slot, np.int64)
        at = np.ascontiguousarray(position, np.int64)
        wanted = np.ascontiguousarray(outputs, np.int64)
        self._check_tokens(hidden, slots, where, at, wanted, canonical)
        width = self._model.width if states else self._model.head.n
        result = np.empty((len(wanted), width), np.float32)
        if not len(hidden):
            return result
        tables = self._tables(at)
        rotations = (Rotation * len(tables))(
            *(Rotation(address(c), address(s), c.shape[1]) for c, s in tables)
        )
        memories = (Slot * len(slots))(*(Slot(each.pointer, each.room) for each in slots))
        tokens = Tokens(
            count=len(hidden),
            slot=address(where),
            position=address(at),
            slots=memories,
            rotations=rotations,
            n_outputs=len(wanted),
            outputs=address(wanted),
            canonical=address(canonical),
        )
        by = ctypes.byref(tokens)
        memory = self.library.llmcli_step_bytes(self.reference, by, threads)
        self.library.llmcli_step(
            self.reference,
            by,
            address(hidden),
            address(result) if states else None,
            None if states else address(result),
            _workspace.pointer(memory),
            threads,
        )
        return result

    def _check_tokens(
        self,
        hidden: Floats,
        slots: Sequence[SlotMemory],
        slot: Array,
        position: Array,
        outputs: Array,
        canonical: npt.NDArray[np.uint8] | None,
    ) -> None:
        """Raise ValueError for what would make the library read or write elsewhere."""
        count = len(hidden)
        if (
            hidden.shape != (count, self._model.width)
            or hidden.dtype != np.float32
            or not slot.shape == position.shape == (count,)
        ):
            raise ValueError("embeddings, slots and positions do not fit each other")
        if not count:
            return
        room = np.array([each.room for each in slots], np.int64)
        if (
            slot.min() < 0
            or slot.max() >= len(slots)
            or position.min() < 0
            or (position >= room[slot]).any()
            or (len(outputs) and not 0 <= outputs.min() <= outputs.max() < count)
            or any(each.pointer is None for each in slots)
            or (canonical is not None and canonical.shape != (count,))
            or (canonical is not None and canonical.dtype != np.uint8)
        ):
            raise ValueError("a token's slot or position is none")

    def _tables(self, position: Array) -> list[tuple[Floats, Floats]]:
        """Cosines and sines [count, pairs] of each rotation."""
        made = []
        for frequencies, scale in self._frequencies:
            # The angle is rounded to float32, as transformers has it.
            angles = (position.astype(np.float32)[:, None] * frequencies).astype(np.float64)
            made.append(
                (
                    (np.cos(angles) * scale).astype(np.float32),
                    (np.sin(angles) * scale).astype(np.float32),
                )
            )
        return made

    def logits(self, states: Floats, *, threads: int) -> Floats:
        """Logits [count, vocab] of states [count, width], the same bits as forward's."""
        states = np.ascontiguousarray(states, np.float32)
        if states.ndim != 2 or states.shape[1] != self._model.width:
            raise ValueError("states of another width")
        result = np.empty((len(states), self._model.head.n), np.float32)
        apply(self._model.head, states, result, cap=self._model.logit_cap, threads=threads)
        return result

    def score(self, states: Floats, targets: Array, *, threads: int) -> Array:
        """What scoring wants of the logits over states, without the logits.

        Args:
            states: What the head reads, [count, width].
            targets: A token id for each row; -1 for none.
            threads: How many may work.

        Returns:
            [count] of :data:`llmcli.engine.row_stats.ROW_STATS`, the same bits as
            :func:`row_stats` makes of the logits.
        """
        states = np.ascontiguousarray(states, np.float32)
        wanted = _targets(targets, len(states), self._model.head.n)
        if states.ndim != 2 or states.shape[1] != self._model.width:
            raise ValueError("states of another width")
        result = np.empty(len(states), ROW_STATS)
        head = ctypes.byref(self._model.head)
        memory = self.library.llmcli_score_bytes(head, len(states), threads)
        self.library.llmcli_score(
            head,
            self._model.logit_cap,
            address(states),
            len(states),
            address(wanted),
            address(result),
            _workspace.pointer(memory),
            threads,
        )
        return result


def _targets(targets: Array, count: int, vocab: int) -> Array:
    wanted = np.ascontiguousarray(targets, np.int64)
    if wanted.shape != (count,) or (count and not -1 <= wanted.min() <= wanted.max() < vocab):
        raise ValueError("targets do not fit the rows")
    return wanted


def row_stats(logits: Floats, targets: Array, *, threads: int) -> Array:
    """Log-sum-exp, entropy, the target's logit and rank of each row [count, vocab] of logits."""
    loaded = library()
    if loaded is None:
        raise RuntimeError("no library")
    logits = np.ascontiguousarray(logits, np.float32)
    count, vocab = logits.shape
    wanted = _targets(targets, count, vocab)
    result = np.empty(count, ROW_STATS)
    loaded.llmcli_row_stats(
        address(logits), count, vocab, address(wanted), address(result), threads
    )
    return result


# The inverse temperatures in the C source.
TEMPERATURES = 10


def tempered_sums(logits: Floats, top: Floats, *, threads: int) -> Array | None:
    """Sums of e^(b z), z e^(b z) and z^2 e^(b z), z = logit - top, for ten inverse temperatures b.

    Args:
        logits: Shape [count, vocab].
        top: The largest of each row.
        threads: How many of the processor's to take.

    Returns:
        Doubles, [count, 10, 3]; None without the library.
    """
    loaded = library()
    if loaded is None:
        return None
    logits, top = (np.ascontiguousarray(each, np.float32) for each in (logits, top))
    count, vocab = logits.shape
    if top.shape != (count,):
        raise ValueError("there is not a largest logit for each row")
    result = np.empty((count, TEMPERATURES, 3))
    loaded.llmcli_tempered(address(logits), count, vocab, address(top), address(result), threads)
    return result


def apply(layer: Linear, x: Floats, y: Floats, *, cap: float = 0.0, threads: int) -> None:
    """y [rows, out] = layer(x [rows, in]), or cap * tanh of its part of cap; contiguous float32."""
    loaded = library()
    if loaded is None:
        raise RuntimeError("no library")
    if (
        x.dtype != np.float32
        or y.dtype != np.float32
        or x.shape != (len(x), layer.k)
        or y.shape != (len(x), layer.n)
    ):
        raise ValueError("x and y do not fit the layer")
    by = ctypes.byref(layer)
    memory = loaded.llmcli_linear_bytes(by, len(x), threads)
    work = _workspace.pointer(memory)
    loaded.llmcli_linear(by, address(x), len(x), address(y), cap, work, threads)

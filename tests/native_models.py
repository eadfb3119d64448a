"""Random blueprints with random weights for the kernels' tests, and levels to run them at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from hypothesis import strategies as st

from llmcli.engine.blueprint import Blueprint, Layer, Placement, Rotary, roles
from llmcli.engine.native.library import Precision, level, levels, library
from llmcli.engine.native.model import NativeModel, SlotMemory
from llmcli.engine.native.panels import gated, pack

Array = Any
LEVELS = levels() if library() is not None else []
"""The levels of this processor; none where the library was not built, or is not to be used."""


@contextmanager
def at_level(name: str) -> Iterator[None]:
    """Compute at a level that this processor has."""
    loaded, before = library(), level()
    assert loaded is not None
    assert before is not None
    assert loaded.llmcli_use_level(name.encode())
    try:
        yield
    finally:
        loaded.llmcli_use_level(before.encode())


@st.composite
def blueprints(draw: st.DrawFn) -> Blueprint:
    """Any structure that there is, small."""
    head_size = draw(st.sampled_from([2, 8, 16, 20, 32]))
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.sampled_from([1, 1, 2, 3, 26]))
    if heads > 9:
        head_size, kv_heads, heads = 4, 1, 26
    placements: list[Placement] = ["before", "after", "both"]
    placement = draw(st.sampled_from(placements))
    parallel = placement == "before" and draw(st.booleans())
    rotaries = tuple(
        Rotary(
            frequencies=tuple(0.7**i for i in range(draw(st.integers(1, head_size // 2)))),
            scale=draw(st.sampled_from([1.0, 1.25])),
        )
        for _ in range(draw(st.integers(0, 2)))
    )
    turns = st.sampled_from([None, *range(len(rotaries))])
    layer = st.builds(
        Layer,
        rotary=turns,
        window=st.sampled_from([None, None, 1, 3, 17]),
        scale=st.sampled_from([0.3, head_size**-0.5]),
    )
    return Blueprint(
        family="drawn",
        vocab_size=draw(st.sampled_from([5, 61, 113])),
        width=draw(st.sampled_from([12, 32, 49])),
        inner=draw(st.sampled_from([7, 16, 40])),
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        layers=tuple(draw(st.lists(layer, min_size=1, max_size=3))),
        norm=draw(st.sampled_from(["layer", "rms"])),
        epsilon=1e-5,
        activation=draw(
            st.sampled_from(["gelu", "gelu_tanh", "gelu_quick", "relu", "silu", "tanh"])
        ),
        tied=False,
        placement=placement,
        parallel=parallel,
        shared_norm=parallel and draw(st.booleans()),
        query_key_norm=draw(st.sampled_from([None, "layer", "rms"])),
        query_key_norm_whole=draw(st.booleans()),
        gated=draw(st.booleans()),
        rotaries=rotaries,
        alibi=tuple(0.5 / (i + 1) for i in range(heads)) if draw(st.booleans()) else (),
        embedding_norm=draw(st.booleans()),
        final_norm=draw(st.booleans()),
        attention_cap=draw(st.sampled_from([0.0, 2.0])),
        logit_cap=draw(st.sampled_from([0.0, 3.0])),
    )


def weights_of(blueprint: Blueprint, seed: int, *, biases: bool = True) -> dict[str, Array]:
    """Random weights by role, float32, with biases or without."""
    rng = np.random.default_rng(seed)
    made: dict[str, Array] = {}
    for role, shape in roles(blueprint):
        values = rng.standard_normal(shape).astype(np.float32)
        if len(shape) == 2 and role != "embedding.weight":
            values /= np.float32(shape[1] ** 0.5)
        made[role] = values if len(shape) == 2 else 1 + values / 4
        if biases and role != "embedding.weight":
            bias = rng.standard_normal(shape[0]).astype(np.float32) / 4
            made[role.removesuffix("weight") + "bias"] = bias
    return made


def arrays_of(
    blueprint: Blueprint, weights: Mapping[str, Array], precision: Precision
) -> dict[str, Array]:
    """Weights as the library takes them."""
    given = dict(weights)
    if blueprint.gated:
        for index in range(len(blueprint.layers)):
            for kind in ("weight", "bias"):
                at = f"layers.{index}."
                if (gate := given.pop(f"{at}gate.{kind}", None)) is not None:
                    given[f"{at}up.{kind}"] = gated(gate, given[f"{at}up.{kind}"])
    if "head.weight" not in given:
        given["head.weight"] = given["embedding.weight"]
    arrays: dict[str, Array] = {}
    for role, values in given.items():
        name = role.removesuffix(".weight")
        if values.ndim == 2 and name != "embedding":
            arrays |= {f"{name}.{part}": each for part, each in pack(values, precision).items()}
        else:
            arrays[role] = values
    return arrays


def run(
    model: NativeModel,
    embedding: Array,
    texts: Sequence[Sequence[int]],
    passes: Sequence[Sequence[tuple[int, int]]],
    *,
    threads: int = 1,
    states: bool = False,
    canonical: bool = False,
) -> list[Array]:
    """Logits after every token of each text.

    Args:
        model: What computes.
        embedding: Its embedding.
        texts: Token ids.
        passes: For each call, how many tokens of which text come next.
        threads: How many threads.
        states: Whether states are wanted instead.
        canonical: Whether tokens of blocks that are wholly there are marked so.
    """
    slots = [SlotMemory(model, len(text)) for text in texts]
    found: list[list[Array]] = [[] for _ in texts]
    for each in passes:
        where: list[int] = []
        at: list[int] = []
        for text, count in each:
            start = len(found[text]) + where.count(text)
            where += [text] * count
            at += range(start, start + count)
        ids = [texts[text][position] for text, position in zip(where, at, strict=True)]
        marks = [p // 64 * 64 + 64 <= len(texts[t]) for t, p in zip(where, at, strict=True)]
        result = model.forward(
            embedding[ids].astype(np.float32),
            slots,
            where,
            at,
            range(len(where)),
            threads=threads,
            states=states,
            canonical=np.array(marks, np.uint8) if canonical else None,
        )
        for text, row in zip(where, result, strict=True):
            found[text].append(row)
    return [np.array(rows) for rows in found]

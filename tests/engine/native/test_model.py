"""Whole models over the library: against numpy, level against level, chunking against chunking."""

from __future__ import annotations

from typing import Any

import numpy as np
import plain_transformer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_models import LEVELS, arrays_of, at_level, blueprints, run, weights_of

from llmcli.engine.blueprint import Blueprint, Layer, Rotary
from llmcli.engine.native.library import Precision
from llmcli.engine.native.model import NativeModel, SlotMemory

pytestmark = pytest.mark.skipif(not LEVELS, reason="the library was not built")


@settings(max_examples=80)
@given(blueprint=blueprints(), seed=st.integers(0, 99), biases=st.booleans(), data=st.data())
def test_every_structure_is_what_numpy_computes(
    blueprint: Blueprint, seed: int, biases: bool, data: st.DataObject
) -> None:
    weights = weights_of(blueprint, seed, biases=biases)
    arrays = arrays_of(blueprint, weights, "float32")
    model = NativeModel(blueprint, arrays, cache_bytes=4)
    text = [(7 * i + seed) % blueprint.vocab_size for i in range(data.draw(st.integers(1, 40)))]
    wanted = plain_transformer.logits(blueprint, weights, text)
    found = {}
    for name in LEVELS:
        with at_level(name):
            (found[name],) = run(
                model, weights["embedding.weight"], [text], [[(0, len(text))]], threads=2
            )
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(found[LEVELS[0]], wanted, atol=2e-4 * scale, rtol=0)
    for name in LEVELS[1:]:
        assert np.array_equal(found[LEVELS[0]], found[name]), name


@settings(max_examples=40)
@given(blueprint=blueprints(), seed=st.integers(0, 99), length=st.integers(1, 150))
def test_integer_keys_and_values(blueprint: Blueprint, seed: int, length: int) -> None:
    weights = weights_of(blueprint, seed)
    arrays = arrays_of(blueprint, weights, "float32")
    model = NativeModel(blueprint, arrays, cache_bytes=1)
    text = [(7 * i + seed) % blueprint.vocab_size for i in range(length)]
    wanted = plain_transformer.logits(blueprint, weights, text, integer_cache=True)
    found = []
    for name in LEVELS:
        with at_level(name):
            found += run(model, weights["embedding.weight"], [text], [[(0, length)]])
    # A number that lies between two integers may be rounded the other way, a 127th of the largest.
    error = np.sqrt(np.mean((found[0] - wanted) ** 2))
    assert error < 0.03 * np.sqrt(np.mean(wanted**2))
    for other in found[1:]:
        assert np.array_equal(found[0], other)


@settings(max_examples=60)
@given(
    blueprint=blueprints(),
    precision=st.sampled_from(["float32", "bfloat16", "int8", "int4"]),
    cache_bytes=st.sampled_from([4, 2, 1]),
    level=st.sampled_from(LEVELS or ["c"]),
    data=st.data(),
)
def test_a_token_gets_the_same_bits_in_every_company(
    blueprint: Blueprint, precision: Precision, cache_bytes: int, level: str, data: st.DataObject
) -> None:
    weights = weights_of(blueprint, 5)
    model = NativeModel(
        blueprint, arrays_of(blueprint, weights, precision), cache_bytes=cache_bytes
    )
    embedding = weights["embedding.weight"]
    texts = data.draw(
        st.lists(
            st.lists(st.integers(0, blueprint.vocab_size - 1), min_size=1, max_size=70),
            min_size=1,
            max_size=6,
        )
    )
    passes: list[list[tuple[int, int]]] = []
    left = {text: len(ids) for text, ids in enumerate(texts)}
    while left:
        some = data.draw(st.lists(st.sampled_from(sorted(left)), min_size=1, unique=True))
        one = []
        for text in some:
            count = data.draw(st.integers(1, left[text]))
            one.append((text, count))
            left[text] -= count
            if not left[text]:
                del left[text]
        passes.append(one)
    with at_level(level):
        alone = [
            run(model, embedding, [text], [[(0, 1)]] * len(text), canonical=True)[0]
            for text in texts
        ]
        together = run(
            model, embedding, texts, passes, threads=data.draw(st.integers(1, 3)), canonical=True
        )
    for a, b in zip(alone, together, strict=True):
        assert np.array_equal(a, b)


def llama(width: int = 64, layers: int = 2) -> Blueprint:
    """A small model with grouped heads, gates and rotation."""
    return Blueprint(
        family="llama",
        vocab_size=300,
        width=width,
        inner=96,
        heads=4,
        kv_heads=2,
        head_size=16,
        layers=(Layer(rotary=0, window=None, scale=0.25),) * layers,
        norm="rms",
        epsilon=1e-6,
        activation="silu",
        tied=True,
        gated=True,
        rotaries=(Rotary(frequencies=tuple(0.6**i for i in range(8))),),
    )


def made(precision: Precision, *, cache_bytes: int = 2) -> tuple[NativeModel, Any]:
    blueprint = llama()
    weights = weights_of(blueprint, 3, biases=False)
    arrays = arrays_of(blueprint, weights, precision)
    return NativeModel(blueprint, arrays, cache_bytes=cache_bytes), weights["embedding.weight"]


TEXT = [(13 * i + i // 7) % 300 for i in range(150)]


@pytest.mark.parametrize("cache_bytes", [4, 2, 1])
def test_a_copied_prefix_is_as_good_as_a_read_one(cache_bytes: int) -> None:
    model, embedding = made("float32", cache_bytes=cache_bytes)
    for length in (1, 15, 16, 17, 100):
        source, target = SlotMemory(model, 160), SlotMemory(model, 300)
        model.forward(embedding[TEXT], [source], [0] * 150, range(150), [], threads=2)
        # What stood in the target before must not be seen.
        model.forward(embedding[TEXT[::-1]], [target], [0] * 150, range(150), [], threads=1)
        target.copy_from(source, length)
        rest = TEXT[length:]
        first, second = [
            model.forward(
                embedding[rest], [slot], [0] * len(rest), range(length, 150), [0], threads=1
            )
            for slot in (source, target)
        ]
        assert np.array_equal(first, second)


def test_trimming_keeps_what_is_before() -> None:
    model, embedding = made("float32", cache_bytes=4)
    one, other = SlotMemory(model, 4096), SlotMemory(model, 4096)
    for slot in (one, other):
        model.forward(embedding[TEXT], [slot], [0] * 150, range(150), [], threads=1)
    one.trim(37)
    first, second = [
        model.forward(embedding[TEXT[37:90]], [slot], [0] * 53, range(37, 90), [52], threads=1)
        for slot in (one, other)
    ]
    assert np.array_equal(first, second)


def test_states_through_the_head_are_the_logits() -> None:
    model, embedding = made("int8")
    passes = [[(0, 100)]]
    logits, states = (
        run(model, embedding, [TEXT[:100]], passes, states=wanted)[0] for wanted in (False, True)
    )
    assert np.array_equal(model.logits(states, threads=2), logits)
    assert np.array_equal(model.logits(states[3:4], threads=1), logits[3:4])


def test_whole_blocks_of_a_bfloat16_prompt_are_as_good() -> None:
    model, embedding = made("bfloat16")
    for level in LEVELS:
        with at_level(level):
            plain, marked = (
                run(model, embedding, [TEXT], [[(0, 150)]], canonical=canonical)[0]
                for canonical in (False, True)
            )
        np.testing.assert_allclose(plain, marked, atol=0.02 * np.abs(plain).max(), rtol=0)
        # Matrix units round activations, and so compute something else; nothing else may.
        assert np.array_equal(plain, marked) == (level != "amx")


def test_what_does_not_fit_is_refused() -> None:
    model, embedding = made("float32")
    slot = SlotMemory(model, 20)
    assert slot.room == 64
    good: dict[str, Any] = {"slot": [0], "position": [0], "outputs": [0]}
    for changes in (
        {"slot": [1]},
        {"slot": [-1]},
        {"position": [64]},
        {"position": [-1]},
        {"outputs": [1]},
        {"outputs": [-1]},
        {"slot": [0, 0]},
    ):
        with pytest.raises(ValueError, match=r"slot|position"):
            model.forward(embedding[:1], [slot], **{**good, **changes}, threads=1)
    with pytest.raises(ValueError, match="do not fit"):
        model.forward(embedding[:1, :10], [slot], **good, threads=1)
    with pytest.raises(ValueError, match="positions"):
        slot.copy_from(slot, 65)
    slot.close()
    with pytest.raises(ValueError, match="slot"):
        model.forward(embedding[:1], [slot], **good, threads=1)


def test_a_damaged_model_is_refused() -> None:
    blueprint = llama()
    weights = weights_of(blueprint, 3)
    whole = arrays_of(blueprint, weights, "int8")
    NativeModel(blueprint, whole, cache_bytes=2)
    for name, array in whole.items():
        if name.endswith(".bias") or name == "embedding.weight":
            continue
        missing = {other: each for other, each in whole.items() if other != name}
        with pytest.raises((ValueError, KeyError)):
            NativeModel(blueprint, missing, cache_bytes=2)
        with pytest.raises(ValueError, match=r"is not|do not|size|missing"):
            NativeModel(blueprint, {**whole, name: array[:-1]}, cache_bytes=2)

"""Layers of the C library against products written out, and what must not change a result."""

from __future__ import annotations

import os
import threading
import warnings
from typing import get_args

import pytest
import torch
from native_units import units  # noqa: F401  (autouse)
from torch import Tensor

from llmcli.engine.kernels import Activation, FloatLinear, activate
from llmcli.engine.native import layers
from llmcli.engine.native.layers import PanelLinear, float_layer
from llmcli.engine.native.library import FEW_ROWS, library
from llmcli.engine.native.panels import PanelPrecision, form_of, pack

pytestmark = pytest.mark.skipif(
    library() is None, reason="the library was not built, or this processor lacks AVX-512"
)

PRECISIONS: tuple[PanelPrecision, ...] = get_args(PanelPrecision)
# Largest error against the product with the weights as they are stored, relative to the largest
# result: few rows (activations in float32, or in 8 bits), many (in bfloat16).
FEW = {"bfloat16": 1e-6, "int8": 0.01, "int4": 0.01}
MANY = 0.01
SHAPES = [(96, 64), (401, 32), (33, 96), (8, 3), (1, 1), (50, 257)]


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _error(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max() / expected.abs().max())


def _restored(weight: Tensor, precision: PanelPrecision) -> Tensor:
    """The weights that panels stand for, from the definition of each precision."""
    if precision == "bfloat16":
        return weight.to(torch.bfloat16).float()
    rows, width = weight.shape
    if precision == "int8":
        scale = weight.abs().amax(1, keepdim=True) / 127
        return (weight / scale).round() * scale
    padded = torch.nn.functional.pad(weight, (0, -width % 32)).view(rows, -1, 32)
    low, high = padded.amin(2, keepdim=True), padded.amax(2, keepdim=True)
    scale, low = ((high - low) / 15).half().float(), low.half().float()
    levels = ((padded - low) / scale).round().clamp(0, 15)
    return (levels * scale + low).view(rows, -1)[:, :width]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", [1, 2, 3, 7, FEW_ROWS, FEW_ROWS + 1, 70])
@pytest.mark.parametrize(("out", "width"), SHAPES)
def test_the_product(precision: PanelPrecision, rows: int, out: int, width: int) -> None:
    weight, bias, x = _random(out, width), _random(out, seed=1), _random(rows, width, seed=2)
    expected = x @ _restored(weight, precision).t() + bias
    stored = pack(weight, precision)
    allowed = FEW[precision] if rows <= FEW_ROWS else MANY
    assert _error(PanelLinear(stored, bias)(x), expected) <= allowed
    assert _error(PanelLinear(stored, None)(x), expected - bias) <= 2 * allowed


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("activation", get_args(Activation))
@pytest.mark.parametrize("rows", [3, 40])
def test_the_activation(precision: PanelPrecision, activation: Activation, rows: int) -> None:
    stored, bias = pack(_random(50, 32), precision), _random(50, seed=1)
    x = _random(rows, 32, seed=2)
    expected = activate(PanelLinear(stored, bias)(x), activation)
    actual = PanelLinear(stored, bias, activation)(x)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", [5, 40])
def test_neither_threads_nor_neighbours_change_a_bit(precision: PanelPrecision, rows: int) -> None:
    linear = PanelLinear(pack(_random(300, 96), precision), _random(300, seed=1), "gelu_new")
    x = _random(rows, 96, seed=2)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = linear(x)
        for count in (2, 5):
            torch.set_num_threads(count)
            assert torch.equal(linear(x), alone)
    finally:
        torch.set_num_threads(threads)
    if rows <= FEW_ROWS:
        one_by_one = torch.cat([linear(row[None]) for row in x])
        assert torch.equal(one_by_one, alone)
    beside_large = linear(torch.cat([x[:-1], 1000 * x[-1:]]))
    assert torch.equal(beside_large[:-1], alone[:-1])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", [2, 40])
def test_a_value_that_is_not_finite_shows(precision: PanelPrecision, rows: int) -> None:
    linear = PanelLinear(pack(_random(20, 64), precision), None)
    for value in (torch.nan, torch.inf):
        x = torch.ones(rows, 64)
        x[1, 5] = value
        y = linear(x)
        assert not y[1].isfinite().any()
        assert y[0].isfinite().all()


def test_zeros_give_the_bias() -> None:
    bias = _random(48, seed=1)
    for precision in PRECISIONS:
        linear = PanelLinear(pack(_random(48, 32), precision), bias)
        assert torch.equal(linear(torch.zeros(2, 32)), bias.expand(2, -1))
        of_zeros = PanelLinear(pack(torch.zeros(48, 32), precision), bias)
        torch.testing.assert_close(of_zeros(_random(2, 32)), bias.expand(2, -1))


def test_weights_beyond_float16_do_not_become_int4() -> None:
    assert form_of(pack(_random(16, 32), "int4")) == "int4"
    assert form_of(pack(_random(16, 32) * 1e6, "int4")) == "int8"


def test_bytes_read() -> None:
    bits = {"bfloat16": 16, "int8": 8 + 32 / 128, "int4": 4 + 32 / 32}
    for precision in PRECISIONS:
        assert PanelLinear(pack(_random(64, 128), precision), None).nbytes == (
            64 * 128 * bits[precision] / 8
        )


def test_what_float_weights_the_library_takes() -> None:
    weight = _random(6, 4)
    for way_round in (weight, weight.t().contiguous().t()):
        layer = float_layer(way_round, None, None)
        assert layer is not None
        assert (layer.n, layer.k, layer.weights) == (6, 4, way_round.data_ptr())
    assert float_layer(_random(12, 8)[::2, ::2], None, None) is None
    assert float_layer(weight.half(), None, None) is None
    assert FloatLinear(weight).layer is not None


def _in_thread_and_here(linear: PanelLinear, x: Tensor) -> list[Tensor]:
    results: list[Tensor] = []
    threads = [threading.Thread(target=lambda: results.append(linear(x))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_several_threads_of_python_may_call_at_once() -> None:
    linear, x = PanelLinear(pack(_random(400, 64), "int8"), None), _random(3, 64, seed=1)
    expected = linear(x)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert all(torch.equal(each, expected) for each in _in_thread_and_here(linear, x))
    finally:
        torch.set_num_threads(threads)


def test_a_forked_child_has_threads_of_its_own() -> None:
    linear, x = PanelLinear(pack(_random(400, 64), "int8"), None), _random(3, 64, seed=1)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        expected = linear(x)
        with warnings.catch_warnings():  # from Python 3.12 on: this process has threads
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            os._exit(0 if torch.equal(linear(x), expected) else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_many_rows_where_bfloat16_has_no_instruction(
    precision: PanelPrecision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processors without it go on as with few rows, however many there are."""
    linear, x = PanelLinear(pack(_random(50, 96), precision), None), _random(70, 96, seed=2)
    one_by_one = torch.cat([linear(row[None]) for row in x])
    monkeypatch.setattr(layers, "FEW_ROWS", len(x))
    assert torch.equal(linear(x), one_by_one)

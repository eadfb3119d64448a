"""Linear layers in each precision against the product written out."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from llmcli.engine import kernels
from llmcli.engine.kernels import Activation, Precision, activate, make_linear, quantize

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# Largest error allowed, relative to the largest result.
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.02, "int8": 0.02, "int4": 0.15}

needs = {p: pytest.mark.skipif(bool(kernels.unsupported(p)), reason=p) for p in PRECISIONS}
every_precision = pytest.mark.parametrize(
    "precision", [pytest.param(p, marks=needs[p]) for p in PRECISIONS]
)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _error(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual.float() - expected).abs().max() / expected.abs().max())


@every_precision
@pytest.mark.parametrize("rows", [1, 2, 5, 40])
@pytest.mark.parametrize(("out", "width"), [(96, 64), (401, 32), (33, 96), (8, 3)])
@pytest.mark.parametrize("in_major", [False, True])
def test_the_product(precision: Precision, rows: int, out: int, width: int, in_major: bool) -> None:
    weight = _random(width, out).t() if in_major else _random(out, width)
    bias, x = _random(out, seed=1), _random(rows, width, seed=2)
    expected = x @ weight.t() + bias
    with torch.inference_mode():
        linear = make_linear(quantize(weight, precision), bias)
        without_bias = make_linear(quantize(weight, precision), None)
        assert _error(linear(x), expected) < TOLERANCE[precision]
        assert _error(without_bias(x), expected - bias) < TOLERANCE[precision]


@every_precision
@pytest.mark.parametrize("activation", get_args(Activation))
@pytest.mark.parametrize("rows", [1, 7])
def test_the_activation(precision: Precision, activation: Activation, rows: int) -> None:
    weight, bias, x = _random(64, 32), _random(64, seed=1), _random(rows, 32, seed=2)
    with torch.inference_mode():
        stored = quantize(weight, precision)
        plain = make_linear(stored, bias)(x).float()
        assert _error(make_linear(stored, bias, activation)(x), activate(plain, activation)) < 0.01


@pytest.mark.parametrize("name", get_args(Activation))
def test_activations_are_those_of_transformers(name: Activation) -> None:
    from transformers.activations import ACT2FN

    x = _random(1000) * 3
    torch.testing.assert_close(activate(x, name), ACT2FN[name](x), rtol=1e-5, atol=1e-6)


def test_int8_values_and_scales() -> None:
    weight = _random(5, 16)
    stored = quantize(weight, "int8")
    restored = stored["int8"] * stored["scale"][:, None]
    assert ((restored - weight).abs() <= stored["scale"][:, None] * 0.5001).all()
    assert stored["int8"].abs().amax(dim=1).tolist() == [127] * 5


@needs["int4"]
def test_int4_is_the_nearest_of_sixteen_levels_of_each_group() -> None:
    weight = _random(64, 64)
    with torch.inference_mode():
        restored = make_linear(quantize(weight, "int4"), None)(torch.eye(64)).t()
    groups = weight.view(64, 2, 32)
    step = (groups.amax(2) - groups.amin(2)) / 15
    error = (restored - weight).view(64, 2, 32).abs().amax(2)
    # Half a step, and what bfloat16 takes off scale and offset.
    assert (error <= 0.5 * step + 0.02 * weight.abs().max()).all()
    assert (error > 0.25 * step).any()


@needs["int8"]
def test_int8_rows_do_not_change_each_other() -> None:
    linear = make_linear(quantize(_random(48, 32), "int8"), _random(48, seed=1))
    small, large = _random(1, 32, seed=2), _random(1, 32, seed=3) * 1000
    with torch.inference_mode():
        beside_large = linear(torch.cat([small, large]))[0]
        beside_itself = linear(torch.cat([small, small]))[0]
        zeros = linear(torch.zeros(2, 32))
    assert torch.equal(beside_large, beside_itself)
    assert _error(zeros[0], _random(48, seed=1)) < 1e-6


@needs["int8"]
def test_packing_leaves_torch_as_it_was() -> None:
    before = torch.backends.quantized.engine
    make_linear(quantize(_random(16, 32), "int8"), None)
    assert torch.backends.quantized.engine == before


def test_float32_does_not_depend_on_the_number_of_threads() -> None:
    weight, x = _random(768, 256), _random(1, 256, seed=1)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(make_linear({"float32": weight}, None)(x))
            results.append(make_linear({"float32": weight.t().contiguous().t()}, None)(x))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[1], results[3])


def test_float32_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_has_onednn", lambda: False)
    weight, bias, x = _random(40, 32), _random(40, seed=1), _random(3, 32, seed=2)
    linear = make_linear({"float32": weight}, bias, "gelu_new")
    assert _error(linear(x), activate(x @ weight.t() + bias, "gelu_new")) < 1e-5
    assert kernels.unsupported("bfloat16")


def test_a_shape_that_int4_cannot_have_becomes_int8() -> None:
    assert set(quantize(_random(8, 40), "int4")) == {"int8", "scale"}


@every_precision
def test_bytes_read(precision: Precision) -> None:
    linear = make_linear(quantize(_random(64, 128), precision), None)
    bits = {"float32": 32, "bfloat16": 16, "int8": 8 + 32 / 128, "int4": 4 + 32 / 32}
    assert linear.nbytes == 64 * 128 * bits[precision] / 8

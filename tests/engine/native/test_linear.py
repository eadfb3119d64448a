"""One layer alone: packing, products and what scoring wants, against numpy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_models import LEVELS, arrays_of, at_level, weights_of

from llmcli.engine.blueprint import Blueprint, Layer
from llmcli.engine.native.library import Precision
from llmcli.engine.native.model import NativeModel, apply, row_stats, tempered_sums
from llmcli.engine.native.panels import bfloat16, check, gated, linear, pack, rows_of
from llmcli.scoring.temperature import BETAS

pytestmark = pytest.mark.skipif(not LEVELS, reason="the library was not built")

PRECISIONS: list[Precision] = ["float32", "bfloat16", "int8", "int4"]


def drawn(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def quantized(x: Any, group: int) -> Any:
    """Activations as the library rounds them."""
    padded = np.pad(x, ((0, 0), (0, -x.shape[1] % group))).reshape(len(x), -1, group)
    scale = np.abs(padded).max(axis=2, keepdims=True) / 127
    rounded = np.rint(padded / np.where(scale > 0, scale, 1)) * scale
    return rounded.reshape(len(x), -1)[:, : x.shape[1]]


@settings(max_examples=60)
@given(
    precision=st.sampled_from(PRECISIONS),
    n=st.integers(1, 100),
    k=st.integers(1, 300),
    rows=st.integers(1, 40),
    seed=st.integers(0, 999),
    bias=st.booleans(),
)
def test_a_layer_is_what_numpy_computes(
    precision: Precision, n: int, k: int, rows: int, seed: int, bias: bool
) -> None:
    packed = pack(drawn(seed, n, k), precision)
    added = drawn(seed + 1, n) if bias else None
    layer = linear(packed, added)
    x = drawn(seed + 2, rows, k)
    read = {"int8": 64, "int4": 32}.get(precision)
    given_ = x.astype(np.float64) if read is None else quantized(x.astype(np.float64), read)
    wanted = given_ @ rows_of(packed, np.arange(n)).astype(np.float64).T
    wanted += 0 if added is None else added
    # A value half-way between two integers may go to either.
    tolerance = 1e-5 if read is None else 2e-3
    found = []
    for level in LEVELS:
        with at_level(level):
            y = np.empty((rows, n), np.float32)
            apply(layer, x, y, threads=1 + seed % 3)
        found.append(y)
        np.testing.assert_allclose(y, wanted, atol=tolerance * np.sqrt(k) * 4, rtol=0)
    assert all(np.array_equal(found[0], each) for each in found)
    alone = np.empty((1, n), np.float32)
    apply(layer, x[-1:], alone, threads=1)
    assert np.array_equal(found[0][-1], alone[0])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_packing_keeps_weights_as_near_as_it_can(precision: Precision) -> None:
    weight = drawn(1, 50, 100)
    back = rows_of(pack(weight, precision), np.arange(50))
    most = {"float32": 0.0, "bfloat16": 2**-8, "int8": 0.5 / 127, "int4": 0.55 / 15}[precision]
    span = np.abs(weight).max(axis=1, keepdims=True)
    if precision == "int4":
        span = 2 * span
    if precision == "bfloat16":
        span = np.abs(weight)
    assert (np.abs(back - weight) <= most * span + 1e-7).all()
    some = np.array([49, 3, 17])
    assert np.array_equal(rows_of(pack(weight, precision), some), back[some])


def test_bfloat16_is_torchs() -> None:
    torch = pytest.importorskip("torch")
    values = np.concatenate(
        [drawn(2, 1000), np.array([0.0, -0.0, np.inf, -np.inf, 1e-40, 3.4e38], np.float32)]
    )
    theirs = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(bfloat16(values), theirs)
    assert np.isnan((bfloat16(np.array([np.nan], np.float32)).astype(np.uint32) << 16).view("f4"))


def test_int4_beyond_half_precision_becomes_int8() -> None:
    assert pack(drawn(1, 4, 40) * np.float32(1e5), "int4")["panels"].dtype == np.int8


def test_gate_and_up_lie_side_by_side() -> None:
    gate, up = drawn(1, 20, 5), drawn(2, 20, 5)
    both = gated(gate, up).reshape(2, 2, 16, 5)
    assert np.array_equal(both[:, 0].reshape(32, 5)[:20], gate)
    assert np.array_equal(both[:, 1].reshape(32, 5)[:20], up)
    assert not both[1, :, 4:].any()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_damaged_panels_are_refused(precision: Precision) -> None:
    packed = pack(drawn(1, 20, 70), precision)
    check(packed)
    damaged: list[dict[str, Any]] = [
        {"panels": packed["panels"][:-1]},
        {"panels": packed["panels"][:, :-1]},
        {"size": np.array([40, 70])},
        {"size": np.array([20, 170])},
        {"size": np.array([20])},
        {"size": np.array([0, 70])},
        {"panels": packed["panels"].astype(np.float64)},
    ]
    if "scales" in packed:
        damaged += [{"scales": packed["scales"][:-1]}, {"scales": packed["scales"].view(np.uint8)}]
    for changes in damaged:
        with pytest.raises(ValueError, match=r"panels|scales"):
            check({**packed, **changes})
    with pytest.raises(ValueError, match="bias"):
        linear(packed, drawn(1, 21))


@settings(max_examples=40)
@given(
    rows=st.integers(1, 5),
    vocab=st.sampled_from([1, 15, 16, 17, 4095, 4096, 4097, 9000]),
    seed=st.integers(0, 999),
    spread=st.sampled_from([0.1, 3.0, 60.0]),
)
def test_row_stats_are_numpys(rows: int, vocab: int, seed: int, spread: float) -> None:
    logits = np.round(drawn(seed, rows, vocab) * np.float32(spread), 1)
    rng = np.random.default_rng(seed)
    logits[rng.random(logits.shape) < 0.1] = -np.inf
    logits[:, rng.integers(vocab)] = 1.5
    targets = rng.integers(-1, vocab, rows)
    wide = logits.astype(np.float64)
    top = wide.max(axis=1, keepdims=True)
    powers = np.exp(wide - top)
    total = powers.sum(axis=1)
    shares = powers / total[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(shares > 0, shares * np.log(shares), 0).sum(axis=1)
    chosen = [row[t] if t >= 0 else np.nan for row, t in zip(logits, targets, strict=True)]
    found = {}
    for level in LEVELS:
        with at_level(level):
            found[level] = row_stats(logits, targets, threads=1 + seed % 2)
    stats = found[LEVELS[0]]
    np.testing.assert_allclose(stats["log_sum_exp"], top[:, 0] + np.log(total), atol=1e-5)
    np.testing.assert_allclose(stats["entropy"], entropy, atol=1e-4)
    assert np.array_equal(stats["target"], np.array(chosen, np.float32), equal_nan=True)
    assert np.array_equal(stats["largest"], logits.max(axis=1))
    assert np.array_equal(stats["argmax"], logits.argmax(axis=1))
    for row, target in enumerate(targets):
        if target >= 0:
            assert stats["greater"][row] == (logits[row] > logits[row, target]).sum()
            before = logits[row, :target] == logits[row, target]
            assert stats["equal_before"][row] == before.sum()
    for each in found.values():
        assert each.tobytes() == stats.tobytes()


@pytest.mark.parametrize("vocab", [1, 15, 4097, 9000])
def test_sums_at_other_temperatures_are_numpys(vocab: int) -> None:
    logits = drawn(vocab, 5, vocab) * np.float32(4)
    logits[np.random.default_rng(1).random(logits.shape) < 0.1] = -np.inf
    logits[:, vocab // 2] = 1.5
    logits[4, 0] = np.nan
    top = logits.max(axis=1)
    found = {}
    for level in LEVELS:
        with at_level(level):
            found[level] = tempered_sums(logits, top, threads=2)
    sums = found[LEVELS[0]]
    assert sums is not None
    z = np.maximum(logits.astype(np.float64) - top[:, None], -1e5)[:4]
    for index, beta in enumerate(BETAS):
        weights = np.exp(beta * z)
        for moment in range(3):
            wanted = (weights * z**moment).sum(axis=1)
            assert sums[:4, index, moment] == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    assert np.isnan(sums[4]).all()
    for each in found.values():
        assert each is not None
        assert each.tobytes() == sums.tobytes()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", [1, 3, 70])
def test_scoring_without_logits_gives_the_same_bits(precision: Precision, rows: int) -> None:
    blueprint = Blueprint(
        family="small", vocab_size=9001, width=40, inner=16, heads=2, kv_heads=1, head_size=8,
        layers=(Layer(rotary=None, window=None, scale=1.0),), norm="rms", epsilon=1e-5,
        activation="silu", tied=False, logit_cap=4.0,
    )  # fmt: skip
    arrays = arrays_of(blueprint, weights_of(blueprint, 1), precision)
    model = NativeModel(blueprint, arrays, cache_bytes=4)
    states = drawn(5, rows, 40) * np.float32(3)
    targets = np.random.default_rng(2).integers(-1, 9001, rows)
    logits = model.logits(states, threads=2)
    assert np.abs(logits).max() <= 4
    both = row_stats(logits, targets, threads=1), model.score(states, targets, threads=2)
    assert both[0].tobytes() == both[1].tobytes()
    with pytest.raises(ValueError, match="targets"):
        model.score(states, np.full(rows, 9001), threads=1)


def test_what_is_no_number_stays_none() -> None:
    for precision in PRECISIONS:
        layer = linear(pack(drawn(1, 20, 70), precision))
        for bad in (np.nan, np.inf):
            x = drawn(2, 2, 70)
            x[0, 5] = bad
            for level in LEVELS:
                with at_level(level):
                    y = np.empty((2, 20), np.float32)
                    apply(layer, x, y, threads=1)
                assert not np.isfinite(y[0]).any()
                assert np.isfinite(y[1]).all()

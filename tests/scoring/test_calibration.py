"""Calibration's figures against plain loops, closed forms and known truths."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from llmcli.scoring.calibration import (
    Calibration,
    Calibrator,
    adaptive_error,
    smooth_error,
    wilson,
)
from llmcli.scoring.temperature import BETAS, COLUMNS, hermite, token_numbers

Doubles = npt.NDArray[np.float64]


def drawn(tokens: int, *, temperature: float = 1.0, seed: int = 0) -> tuple[Doubles, Any]:
    """Logits, and tokens that come as a model with these logits over a temperature has it."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(tokens, 30)) * random.uniform(0.5, 4, size=(tokens, 1))
    noise = random.gumbel(size=logits.shape)
    return logits, (logits / temperature + noise).argmax(axis=1)


def result_of(logits: Doubles, targets: Any, **settings: float) -> Calibration:
    calibrator = Calibrator(**settings)  # type: ignore[arg-type]
    for begin in range(0, len(logits), 70):
        calibrator.add(list(token_numbers(logits[begin : begin + 70], targets[begin : begin + 70])))
    return calibrator.result()


def log_softmax(logits: Doubles) -> Doubles:
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: Doubles = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_numbers_of_tokens(kind: type) -> None:
    logits, targets = drawn(50)
    logits[3, 4:9] = -np.inf
    targets[3] = 12
    found = token_numbers(logits.astype(kind), targets)
    assert found.shape == (50, COLUMNS)
    rows = np.arange(50)
    finite = np.maximum(logits, -1e4)
    close: dict[str, Any] = {"rel": 1e-9, "abs": 1e-9}
    if kind is np.float32:
        close = {"rel": 1e-4, "abs": 1e-5}
    for index, beta in enumerate(BETAS):
        logprobs = log_softmax(beta * finite)
        chances = np.exp(logprobs)
        mean = (chances * finite).sum(1)
        variance = (chances * finite**2).sum(1) - mean**2
        columns = found[:, 4 + 4 * index : 8 + 4 * index].T
        assert columns[0] == pytest.approx(-logprobs[rows, targets], **close)
        assert columns[1] == pytest.approx(mean - finite[rows, targets], **close)
        assert columns[2] == pytest.approx(variance, **close)
        assert columns[3] == pytest.approx(chances.max(1), **close)
        if beta == 1:
            assert found[:, 0] == pytest.approx(chances.max(1), **close)
            assert found[:, 1].tolist() == (finite.argmax(1) == targets).tolist()
            assert found[:, 2] == pytest.approx(-logprobs[rows, targets], **close)
            assert found[:, 3] == pytest.approx(-(chances * logprobs).sum(1), **close)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_bins_against_a_plain_loop(bins: int) -> None:
    logits, targets = drawn(3000, temperature=1.7)
    found = result_of(logits, targets, bins=bins)
    chances = np.exp(log_softmax(logits))
    confidence, correct = chances.max(1), logits.argmax(1) == targets
    error, most, reliability, resolution = 0.0, 0.0, 0.0, 0.0
    for index in range(bins):
        inside = (confidence > index / bins) & (confidence <= (index + 1) / bins)
        if not inside.any():
            continue
        gap = abs(float(confidence[inside].mean() - correct[inside].mean()))
        error += inside.mean() * gap
        reliability += inside.mean() * gap**2
        resolution += inside.mean() * float(correct[inside].mean() - correct.mean()) ** 2
        most = max(most, gap if inside.sum() >= 50 else 0.0)
    assert found.ece == pytest.approx(error, abs=1e-9)
    assert found.mce == pytest.approx(most, abs=1e-9)
    assert found.reliability == pytest.approx(reliability, abs=1e-9)
    assert found.resolution == pytest.approx(resolution, abs=1e-9)
    assert found.brier == pytest.approx(float(((confidence - correct) ** 2).mean()))
    parts = found.reliability - found.resolution + found.uncertainty + found.within_bins
    assert found.brier == pytest.approx(parts)
    assert sum(each.tokens for each in found.bins) == found.tokens == 3000
    assert found.accuracy == pytest.approx(float(correct.mean()))
    ordered = np.argsort(confidence)
    gaps = [
        abs(float(confidence[part].mean() - correct[part].mean()))
        for part in np.array_split(ordered, bins)
    ]
    assert found.ace == pytest.approx(float(np.mean(gaps)), abs=1e-3)


def test_smooth_error_against_the_sum_over_tokens() -> None:
    logits, targets = drawn(2000, temperature=2.0)
    found = result_of(logits, targets)
    chances = np.exp(log_softmax(logits))
    confidence, correct = chances.max(1), (logits.argmax(1) == targets).astype(float)
    grid = (np.arange(4000) + 0.5) / 4000
    width = found.smece_width
    total = np.zeros_like(grid)
    for image in (0, -1, 1):
        for sign in (1, -1):
            place = sign * confidence + 2 * image
            kernel = np.exp(-((grid[:, None] - place) ** 2) / (2 * width**2))
            total += (kernel * (correct - confidence)).sum(1) / width / math.sqrt(2 * math.pi)
    exact = float(np.abs(total).mean()) / len(confidence)
    assert found.smece == pytest.approx(exact, abs=1e-3)
    assert found.smece == pytest.approx(width, abs=1e-6)


def test_equal_mass_and_smoothness_of_what_is_right() -> None:
    fine = np.array([[10.0, 1.0, 1.0], [30.0, 15.0, 15.0], [20.0, 19.0, 19.0]])
    assert adaptive_error(fine, 7) == pytest.approx(0, abs=1e-12)
    assert smooth_error(fine)[0] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("truth", [0.6, 1.0, 1.3, 2.4])
def test_a_known_temperature_is_found(truth: float) -> None:
    logits, targets = drawn(12_000, temperature=truth, seed=3)
    found = result_of(logits, targets)
    assert found.temperature is not None
    assert found.temperature_interval is not None
    low, high = found.temperature_interval
    assert low < truth < high
    assert high - low < 0.2 * truth
    assert found.nll_after is not None
    assert found.nll_before is not None
    assert found.ece_after is not None
    if truth != 1:
        assert found.nll_after < found.nll_before
        assert found.ece > found.ece_floor[1]
    else:
        assert found.ece < found.ece_floor[1]
    assert found.ece_after < 2 * found.ece_floor[1]


@pytest.mark.parametrize("truth", [0.75, 1.45])
def test_at_the_best_temperature_entropy_is_nll(truth: float) -> None:
    logits, targets = drawn(4000, temperature=truth, seed=5)
    found = result_of(logits, targets, holdout=0.0)
    assert found.temperature is not None
    logprobs = log_softmax(logits / found.temperature)
    entropy = -float((np.exp(logprobs) * logprobs).sum(1).mean())
    nll = -float(logprobs[np.arange(4000), targets].mean())
    assert entropy == pytest.approx(nll, abs=1e-6)


def test_held_out_figures_after_the_temperature() -> None:
    logits, targets = drawn(128 * 40, temperature=1.5, seed=6)
    found = result_of(logits, targets)
    assert found.temperature is not None
    # With half held out, every second block of 128 is.
    held = np.arange(len(logits)) // 128 % 2 == 1
    logprobs = log_softmax(logits[held] / found.temperature)
    nll = -float(logprobs[np.arange(held.sum()), targets[held]].mean())
    assert found.nll_after == pytest.approx(nll, abs=1e-6)
    confidence = np.exp(logprobs.max(1))
    correct = logits[held].argmax(1) == targets[held]
    bins = np.ceil(confidence * 15).astype(int) - 1
    error = np.abs(np.bincount(bins, confidence - correct)).sum() / held.sum()
    assert found.ece_after == pytest.approx(float(error), abs=2e-3)


def test_the_floor_is_what_a_perfect_model_shows() -> None:
    errors = []
    for seed in range(40):
        logits, targets = drawn(1500, seed=seed)
        found = result_of(logits, targets)
        errors.append(found.ece)
    assert float(np.mean(errors)) == pytest.approx(found.ece_floor[0], rel=0.15)
    assert found.ece_floor[0] < found.ece_floor[1]


def test_interpolation_of_a_smooth_function() -> None:
    betas = np.array(BETAS)
    for x in (0.25, 0.6, 0.9, 1.0, 1.4, 2.7, 3.0):
        found = hermite(x, np.exp(-betas), -np.exp(-betas))
        assert found == pytest.approx(math.exp(-x), abs=1e-6)


def test_few_tokens_are_not_fitted() -> None:
    found = result_of(*drawn(150))
    assert (found.temperature, found.nll_after, found.ece_interval) == (None, None, None)


def test_memory_is_that_of_some_blocks() -> None:
    calibrator = Calibrator()
    numbers = token_numbers(*drawn(128))
    for _ in range(20_000):
        calibrator.all.add(numbers)
    assert len(calibrator.all.blocks()) < 8192
    assert calibrator.all.block_tokens > 128
    assert calibrator.all.blocks()[:, :15].sum() == calibrator.all.tokens == 128 * 20_000


def test_wilson() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10)[0] == 0

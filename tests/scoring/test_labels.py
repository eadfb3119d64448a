"""Corrections, figures, fits and sets of labels against plain loops and known truths."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmcli.scoring.labels import (
    area_under_risk,
    conformal_sets,
    conformal_threshold,
    content_free_prior,
    corrected,
    fit_scale,
    label_figures,
    least_for,
    log_softmax,
    macro_f1,
    mean_prior,
)

Doubles = npt.NDArray[np.float64]


def drawn(inputs: int, labels: int, *, spread: float = 2.0, seed: int = 0) -> tuple[Doubles, Any]:
    """Log-likelihoods of labels, and labels that come with just these probabilities."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(inputs, labels)) * spread - 30
    truth = (scores + random.gumbel(size=scores.shape)).argmax(axis=1)
    return scores, truth


def test_batch_takes_an_injected_bias_out() -> None:
    scores, truth = drawn(4000, 3, spread=0.5)
    biased = scores + np.array([1.5, 0.0, -1.0])
    plain = label_figures(log_softmax(scores), truth).accuracy
    assert label_figures(log_softmax(biased), truth).accuracy < plain - 0.1
    mended = corrected(biased, mean_prior(biased))
    assert label_figures(mended, truth).accuracy > plain - 0.01
    most = [float(np.bincount(each.argmax(1)).max() / 4000) for each in (scores, biased, mended)]
    assert most[1] > 0.9
    assert most[2] < most[0] + 0.12
    assert np.exp(mended).sum(axis=1) == pytest.approx(1)
    assert corrected(biased, mean_prior(biased), 0.0) == pytest.approx(log_softmax(biased))


def test_a_content_free_input_is_undecided_after_its_own_correction() -> None:
    scores = np.array([[-40.0, -38.0, -45.0]])
    assert np.exp(corrected(scores, content_free_prior(scores))) == pytest.approx(1 / 3)
    several = np.array([[-700.0, -702.0], [-740.0, -690.0]])
    chances = [[math.exp(each + 690) for each in row] for row in several]
    means = [sum(column) / 2 for column in zip(*chances, strict=True)]
    wanted = [math.log(each / sum(means)) for each in means]
    assert content_free_prior(several) == pytest.approx(wanted)


def test_figures_against_plain_loops() -> None:
    scores, truth = drawn(700, 4, seed=1)
    logprobs = log_softmax(scores * 1.7)
    found = label_figures(logprobs, truth, bins=10)
    nll = brier = risk = 0.0
    rows: list[tuple[float, bool]] = []
    for row, label in zip(np.exp(logprobs).tolist(), truth.tolist(), strict=True):
        nll -= math.log(row[label])
        brier += sum((chance - (index == label)) ** 2 for index, chance in enumerate(row))
        rows.append((max(row), row.index(max(row)) == label))
    wrong = 0
    for count, (_, right) in enumerate(sorted(rows, reverse=True), 1):
        wrong += not right
        risk += wrong / count
    error = 0.0
    for low in range(10):
        inside = [each for each in rows if low / 10 < each[0] <= (low + 1) / 10]
        error += abs(sum(sure - right for sure, right in inside))
    assert found.nll == pytest.approx(nll / 700)
    assert found.brier == pytest.approx(brier / 700)
    assert found.aurc == pytest.approx(risk / 700)
    assert found.ece == pytest.approx(error / 700, abs=1e-6)
    assert found.accuracy == pytest.approx(sum(right for _, right in rows) / 700)


def test_macro_f1_and_equal_confidences() -> None:
    chosen, truth = np.array([0, 0, 1, 1, 3]), np.array([0, 1, 1, 1, 2])
    # F1 of 0 is 2/3, of 1 is 4/5; 2 was never chosen and 3 never true.
    assert macro_f1(chosen, truth) == pytest.approx((2 / 3 + 4 / 5 + 0 + 0) / 4)
    alike = area_under_risk(np.full(4, 0.5), np.array([1.0, 0.0, 1.0, 0.0]))
    assert alike == area_under_risk(np.full(4, 0.5), np.array([0.0, 0.0, 1.0, 1.0])) == 0.5


def test_the_floor_is_what_right_probabilities_show() -> None:
    found = [label_figures(log_softmax(s), t) for s, t in (drawn(300, 3, seed=n) for n in range(9))]
    assert np.mean([each.ece for each in found]) == pytest.approx(found[0].ece_floor[0], rel=0.3)
    assert found[0].ece_floor[0] < found[0].ece_floor[1]


@pytest.mark.parametrize("bias", [False, True])
def test_the_fit_is_torchs_minimum(bias: bool) -> None:
    scores, truth = drawn(800, 3, seed=2)
    scores = scores * 2.5 + np.array([1.0, 0.0, -1.5])
    fit = fit_scale(scores, truth, bias=bias)
    weights = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, tolerance_grad=1e-10)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = weights[0] * torch.from_numpy(scores)
        if bias:
            logits = logits + torch.cat([torch.zeros(1, dtype=torch.float64), weights[1:]])
        value = torch.nn.functional.cross_entropy(logits, torch.from_numpy(truth))
        value.backward()  # type: ignore[no-untyped-call]
        return value

    for _ in range(5):
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    wanted = weights.detach().tolist()
    assert fit.scale == pytest.approx(wanted[0], abs=1e-4)
    assert fit.bias == pytest.approx([0.0, *wanted[1:]] if bias else [0.0] * 3, abs=1e-3)
    before = label_figures(log_softmax(scores), truth).nll
    assert label_figures(fit.apply(scores), truth).nll < before


def test_a_fit_of_what_is_always_right_stays_finite() -> None:
    scores = np.array([[5.0, 0.0], [0.0, 5.0]] * 10)
    fit = fit_scale(scores, np.array([0, 1] * 10), bias=True)
    assert 1 < fit.scale < 100
    assert all(map(math.isfinite, fit.bias))


def test_conformal_coverage_has_the_beta_law() -> None:
    """Of 1,000 splits: coverage has the law Beta(k, n + 1 - k), k = ceil((n + 1)(1 - alpha))."""
    random = np.random.default_rng(4)
    n, alpha = 60, 0.15
    found = []
    for _ in range(1000):
        threshold = conformal_threshold(random.random(n), alpha)
        found.append(threshold)  # of uniform scores that is the coverage itself
    place = math.ceil((n + 1) * (1 - alpha))
    mean = place / (n + 1)
    assert np.mean(found) == pytest.approx(mean, abs=4 * float(np.std(found)) / 32)
    assert np.std(found) == pytest.approx(math.sqrt(mean * (1 - mean) / (n + 2)), rel=0.1)
    law = torch.distributions.Beta(place, n + 1 - place).sample((200_000,)).numpy()
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert np.mean(found <= np.quantile(law, share)) == pytest.approx(share, abs=0.06)


def test_sets_hold_the_truth_as_often_as_they_say() -> None:
    scores, truth = drawn(6000, 4, seed=5)
    logprobs = log_softmax(scores * 3)  # far too sure: sets do not mind
    wrongness = 1 - np.exp(logprobs[np.arange(6000), truth])
    threshold = conformal_threshold(wrongness[:3000], 0.1)
    sets = list(conformal_sets(logprobs[3000:], threshold))
    covered = np.mean([label in each for label, each in zip(truth[3000:], sets, strict=True)])
    assert covered == pytest.approx(0.9, abs=0.02)
    assert 1 < np.mean([len(each) for each in sets]) < 3


@given(st.integers(1, 400), st.integers(1, 99))
def test_the_rank_of_the_threshold(n: int, percent: int) -> None:
    alpha = percent / 100
    enough = n >= least_for(alpha)
    assert enough == (math.ceil((n + 1) * (100 - percent) / 100) <= n)
    if enough:
        scores = np.arange(1.0, n + 1)
        # ceil((n + 1)(1 - alpha)), in whole numbers.
        assert conformal_threshold(scores[::-1], alpha) == -((n + 1) * (percent - 100) // 100)

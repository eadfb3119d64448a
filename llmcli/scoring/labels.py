"""Probabilities of labels: their corrections, how right they are, and sets that hold the truth.

A matrix of scores is [inputs, labels]: the log-likelihood of each label's text after the input.
Labels are known by their column.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmcli.scoring.calibration import RESAMPLES, SEED, Doubles, expected_calibration_error

Labels = npt.NDArray[np.int64]

# The smallest probability whose logarithm is taken.
_LEAST = 1e-300
_STEPS = 100


def log_softmax(scores: Doubles) -> Doubles:
    """Log-probabilities over the last axis."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    found: Doubles = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


# -- corrections -------------------------------------------------------------------------------


def content_free_prior(scores: Doubles) -> Doubles:
    """Contextual calibration's prior, as logs (Zhao et al. 2021).

    The labels' probabilities after inputs without content, as they are, are averaged, then
    normalised; dividing by them makes such an input undecided.

    Args:
        scores: After each of these inputs, [inputs, labels].
    """
    highest = scores.max()
    return log_softmax(np.log(np.exp(scores - highest).mean(axis=0) + _LEAST))


def mean_prior(scores: Doubles) -> Doubles:
    """The mean of the labels' normalised probabilities over inputs, as logs.

    Over the inputs themselves that is batch calibration (Zhou et al. 2023), over random words of
    them domain-context calibration (Fei et al. 2023).

    Args:
        scores: After each of these inputs, [inputs, labels].
    """
    found: Doubles = np.log(np.exp(log_softmax(scores)).mean(axis=0) + _LEAST)
    return found


def corrected(scores: Doubles, prior: Doubles, gamma: float = 1.0) -> Doubles:
    """Log-probabilities with a prior taken out: log q = log p - gamma log prior, normalised.

    Args:
        scores: [inputs, labels].
        prior: Logs, [labels].
        gamma: How much of it is taken out.
    """
    return log_softmax(scores - gamma * prior)


# -- fits --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What scores are multiplied by, and what is added for each label."""

    scale: float
    bias: tuple[float, ...]

    def apply(self, scores: Doubles) -> Doubles:
        """Log-probabilities of the labels."""
        return log_softmax(self.scale * scores + np.array(self.bias))


def fit_scale(scores: Doubles, truth: Labels, *, bias: bool) -> Fit:
    """The scale, and with ``bias`` one number for each label, of the least NLL.

    The loss is convex in both. Newton's method with halved steps; a tiny ridge (1e-6) keeps it
    from running off where the labels can be told apart without an error.

    Args:
        scores: [inputs, labels].
        truth: [inputs].
        bias: Whether labels get a number each; the first one's is 0.
    """
    count, labels = scores.shape
    free = labels - 1 if bias else 0
    features = np.zeros((count, labels, 1 + free))
    # Only differences count, and the curvature is better where they are small.
    features[:, :, 0] = scores - scores.mean(axis=1, keepdims=True)
    if bias:
        features[:, 1:, 1:] = np.eye(free)
    rows = np.arange(count)
    ridge = 1e-6

    def loss(weights: Doubles) -> float:
        logprobs = log_softmax(features @ weights)
        return float(-logprobs[rows, truth].mean() + ridge / 2 * (weights**2).sum())

    weights = np.zeros(1 + free)
    for _ in range(_STEPS):
        chances = np.exp(log_softmax(features @ weights))
        means = np.einsum("nl,nlf->nf", chances, features)
        slope = (means - features[rows, truth]).mean(axis=0) + ridge * weights
        square = np.einsum("nl,nlf,nlg->fg", chances, features, features) / count
        curve = square - means.T @ means / count + ridge * np.eye(1 + free)
        step = np.linalg.solve(curve, slope)
        size, before = 1.0, loss(weights)
        while size > 1e-9 and loss(weights - size * step) > before:
            size /= 2
        weights = weights - size * step
        if np.abs(size * step).max() < 1e-9:
            break
    biases = weights[1:].tolist() if bias else [0.0] * (labels - 1)
    return Fit(scale=float(weights[0]), bias=(0.0, *biases))


# -- how right they are ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFigures:
    """How right labels' probabilities are; docs/calibration.md has the formulas."""

    accuracy: float
    macro_f1: float
    nll: float
    brier: float
    ece: float
    ece_floor: tuple[float, float]
    aurc: float


def label_figures(logprobs: Doubles, truth: Labels, *, bins: int = 15) -> LabelFigures:
    """Compare labels' probabilities with the truth.

    Args:
        logprobs: Normalised, [inputs, labels].
        truth: [inputs].
        bins: Bins of equal width for the ECE.
    """
    chances = np.exp(logprobs)
    chosen = logprobs.argmax(axis=1)
    correct = (chosen == truth).astype(np.float64)
    confidence = chances[np.arange(len(chances)), chosen]
    target = np.eye(logprobs.shape[1])[truth]
    table = np.zeros((bins, 3))
    places = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    np.add.at(table, places, np.column_stack([np.ones_like(correct), confidence, correct]))
    return LabelFigures(
        accuracy=float(correct.mean()),
        macro_f1=macro_f1(chosen, truth),
        nll=float(-logprobs[np.arange(len(truth)), truth].mean()),
        brier=float(((chances - target) ** 2).sum(axis=1).mean()),
        ece=expected_calibration_error(table),
        ece_floor=_floor(confidence, places, bins),
        aurc=area_under_risk(confidence, correct),
    )


def _floor(confidence: Doubles, places: Labels, bins: int) -> tuple[float, float]:
    """The ECE of a model whose confidences are right, by chance: mean and 95 % quantile."""
    random = np.random.Generator(np.random.PCG64(SEED))
    errors = []
    for _ in range(RESAMPLES):
        gaps = confidence - (random.random(len(confidence)) < confidence)
        errors.append(np.abs(np.bincount(places, gaps, bins)).sum() / len(confidence))
    return float(np.mean(errors)), float(np.quantile(errors, 0.95))


def macro_f1(chosen: Labels, truth: Labels) -> float:
    """The mean over labels, of those that occur or are given, of 2 TP / (2 TP + FP + FN)."""
    found = []
    for label in np.union1d(chosen, truth):
        hits = int(((chosen == label) & (truth == label)).sum())
        found.append(2 * hits / (int((chosen == label).sum()) + int((truth == label).sum())))
    return float(np.mean(found))


def area_under_risk(confidence: Doubles, correct: Doubles) -> float:
    """AURC (Geifman et al. 2019): the mean, over k, of the error rate of the k surest answers.

    Inputs of equal confidence are taken in together.
    """
    order = np.argsort(-confidence, kind="stable")
    sure, wrong = confidence[order], 1 - correct[order]
    starts = np.flatnonzero(np.r_[True, np.diff(sure) != 0])
    sizes = np.diff(np.r_[starts, len(sure)])
    spread = np.repeat(np.add.reduceat(wrong, starts) / sizes, sizes)
    return float((np.cumsum(spread) / np.arange(1, len(sure) + 1)).mean())


# -- sets --------------------------------------------------------------------------------------


def least_for(alpha: float) -> int:
    """How many scores a set at ``alpha`` needs: 1 / alpha - 1, rounded up."""
    return math.ceil(1 / alpha - 1 - 1e-9)


def conformal_threshold(scores: Doubles, alpha: float) -> float:
    """The ceil((n + 1) (1 - alpha))-th smallest of the scores 1 - q (Vovk et al. 2005).

    Sets of all labels whose score is at most that hold the truth with a probability of at least
    1 - alpha, if inputs are exchangeable.

    Args:
        scores: Of labelled inputs, [n]; at least ``least_for(alpha)``.
        alpha: The share of sets that may miss.
    """
    # Rounding must not lift (n + 1) (1 - alpha) above a whole number that it is.
    place = math.ceil((len(scores) + 1) * (1 - alpha) - 1e-9)
    return float(np.sort(scores)[place - 1])


def conformal_sets(logprobs: Doubles, threshold: float) -> Iterator[list[int]]:
    """The labels of each input whose score is at most the threshold; none may be left."""
    for row in 1 - np.exp(logprobs) <= threshold:
        yield np.flatnonzero(row).tolist()

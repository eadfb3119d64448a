"""Entropies of what a model writes, against what generate draws and what must hold by law."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmcli.api import LanguageModel, load
from llmcli.engine.params import SamplingParams
from llmcli.scoring.generations import Mean, continuations, solve, text_losses
from llmcli.scoring.likelihood import Likelihood
from llmcli.tasks.generate import continue_text


@pytest.fixture(scope="module")
def model(tiny_gpt2: Path) -> LanguageModel:
    return load(str(tiny_gpt2), threads=1)


def test_surprisal_is_the_entropy_on_average(model: LanguageModel) -> None:
    """At temperature 1 without filters E[-log p(drawn)] is the entropy, at every step."""
    found = continuations(
        model.decoder(), [[0], [5, 6, 7]], SamplingParams(seed=3), steps=40, samples=60
    )
    assert found.sampling_entropy is not found.entropy
    assert found.sampling_entropy == pytest.approx(found.entropy)
    gaps = found.surprisal - found.entropy
    mean = Mean.of(gaps)
    assert abs(mean.value) < 3.5 * mean.error
    assert mean.error < 0.05
    assert np.abs(gaps).max() > 10 * mean.error


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.7, "top_p": 0.8}, {"temperature": 1.5, "min_p": 0.02}]
)
def test_the_draws_are_those_of_generate(model: LanguageModel, settings: dict[str, float]) -> None:
    params = SamplingParams(seed=11, max_new_tokens=12, logprobs=0, **settings)  # type: ignore[arg-type]
    prompt = model.tokenizer.ids("The fox")
    found = continuations(model.decoder(), [prompt], params, steps=12, samples=2)
    params = replace(params, num_return_sequences=2)
    drawn = [
        each for each in continue_text(model, "The fox", params).events if each.token_id is not None
    ]
    for index in range(2):
        wanted = [-each.logprob for each in drawn if each.index == index and each.logprob]
        assert wanted
        assert found.surprisal[index][: len(wanted)] == pytest.approx(wanted, abs=1e-5)
    if settings.get("temperature", 1) <= 1:
        assert (found.sampling_entropy <= found.entropy + 1e-6).all()


def test_losses_of_texts_and_their_ends(model: LanguageModel) -> None:
    likelihood = Likelihood(model.decoder())
    ids = model.tokenizer.ids("The fox said to the crow: give me the cheese.")
    found = text_losses(likelihood, [(ids[:3], ids[3:7]), (ids[:1], ids[1:])], steps=6)
    assert np.isnan(found[0]).tolist() == [False] * 4 + [True] * 2
    single = text_losses(likelihood, [(ids[:5], ids[5:6])], steps=1)
    assert single[0, 0] == pytest.approx(found[0, 2], abs=1e-5)
    assert found[1, 4] == pytest.approx(single[0, 0], abs=1e-5)


def test_means_over_rows() -> None:
    values = np.array([[1.0, 3.0], [5.0, math.nan], [math.nan, math.nan], [2.0, 2.0]])
    mean = Mean.of(values)
    assert mean.value == pytest.approx(13 / 5)
    # Equal lengths: the standard error of the rows' means.
    rows = np.random.default_rng(1).normal(size=(30, 8))
    plain = rows.mean(axis=1)
    assert Mean.of(rows).error == pytest.approx(plain.std(ddof=1) / math.sqrt(30))
    assert (Mean(1, 3) - Mean(2, 4)).interval == pytest.approx((-1 - 9.79982, -1 + 9.79982))
    assert Mean.of(rows[:1]).interval is None


def test_solving() -> None:
    asked: list[float] = []

    def cubic(x: float) -> float:
        asked.append(x)
        return x**3 - 0.7

    assert solve(cubic, 0, 2, close=1e-3, most=12) == pytest.approx(0.7 ** (1 / 3), abs=1e-3)
    assert len(asked) <= 12
    assert solve(cubic, 1, 2, close=1e-3) is None

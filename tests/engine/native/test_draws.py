"""Tokens drawn by the library against the reference in numpy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.engine import choosing, sampling
from llmcli.engine.decoder import Floats
from llmcli.engine.native import library
from llmcli.engine.native.draws import Drawn, Row, draw_rows
from llmcli.engine.params import SamplingParams
from llmcli.engine.transcript import Chosen, Prompt, Transcript
from llmcli.errors import InvalidInput, NumericalError

pytestmark = pytest.mark.skipif(library.library() is None, reason="the library was not built")

SETTINGS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([1e-30, 0.1, 0.7, 1.0, 2.0, 20.0]),
        "top_k": st.sampled_from([0, 1, 3, 40, 1000]),
        "top_p": st.sampled_from([0.001, 0.3, 0.9, 0.95, 0.999, 1.0]),
        "min_p": st.sampled_from([0.0, 0.013, 0.21]),
    }
)


@pytest.fixture(autouse=True, params=library.levels())
def level(request: pytest.FixtureRequest) -> Any:
    native = library.library()
    assert native is not None
    before = library.level()
    native.llmcli_use_level(request.param.encode())
    yield
    native.llmcli_use_level((before or "c").encode())


def drawn(logits: Any, numbers: Any, threads: int = 1, **options: Any) -> list[Drawn | None]:
    rows = [
        Row(logits=row, number=float(number), **options)
        for row, number in zip(logits, numbers, strict=True)
    ]
    result = draw_rows(rows, threads=threads)
    assert result is not None
    return result


def text(params: SamplingParams) -> Transcript:
    return Transcript(
        Prompt(ids=(1, 2, 2)), params, n_positions=64, token_bytes=lambda _: b"a",
        eos_ids=(3,), index=0,
    )  # fmt: skip


def reference(logits: Any, options: dict[str, Any]) -> Any:
    return sampling.filter_logits(logits, SamplingParams(**options))


@given(
    options=SETTINGS,
    seed=st.integers(0, 2**32),
    vocab=st.sampled_from([1, 2, 15, 16, 17, 255, 256, 257, 3000]),
    spread=st.sampled_from([0.01, 1.0, 4.0, 30.0]),
    threads=st.sampled_from([1, 2]),
)
@settings(max_examples=60)
def test_the_token_is_the_reference_s(
    options: dict[str, Any], seed: int, vocab: int, spread: float, threads: int
) -> None:
    random = np.random.default_rng(seed)
    logits = (random.standard_normal((6, vocab)) * spread).astype(np.float32)
    if vocab > 4:
        logits[:, 2] = -np.inf
        logits[1:, 3] = logits[1:, 4]
    numbers = random.random(6)
    found = drawn(logits, numbers, threads, **options)
    for row, number, token in zip(logits, numbers, found, strict=True):
        left = reference(row, options)
        assert token is not None
        expected = sampling.draw(left, float(number))
        if token.token != expected:
            # A number on the border of two tokens: sums differ in their last digits.
            weights = sampling.softmax(left).astype(np.float64).cumsum()
            assert min(abs(weights - number)) < 1e-5
        logprob = float(left[token.token]) - sampling.log_sum_exp(left)
        assert token.logprob == pytest.approx(logprob, abs=1e-4)


def test_ties_at_the_border_go_from_the_first_on() -> None:
    logits = np.zeros((1, 8), np.float32)
    # Half of eight equal tokens: the first four go.
    numbers = [0.0, 0.3, 0.6, 0.99]
    found = drawn(np.repeat(logits, 4, axis=0), numbers, top_p=0.5)
    assert [each.token for each in found if each] == [4, 5, 6, 7]


def test_logits_that_weigh_the_same_at_the_border() -> None:
    """Of two whose probabilities are one float, the larger logit stays, wherever it stands."""
    logits = np.random.default_rng(99076133).standard_normal((6, 3000)) * 0.01
    logits[:, 2] = -np.inf
    options: dict[str, Any] = {"temperature": 20.0, "top_p": 0.3}
    numbers = (np.arange(4000) + 0.5) / 4000
    for row in logits.astype(np.float32):
        found = drawn(np.broadcast_to(row, (4000, 3000)), numbers, 2, **options)
        kept = np.flatnonzero(np.isfinite(reference(row, options)))
        assert {each.token for each in found if each is not None} == set(kept.tolist())


def test_threads_and_neighbours_change_nothing() -> None:
    random = np.random.default_rng(5)
    logits = (random.standard_normal((32, 5000)) * 3).astype(np.float32)
    numbers = random.random(32)
    together = drawn(logits, numbers, 2, temperature=0.8, top_p=0.95)
    alone = [
        drawn(logits[i : i + 1], numbers[i : i + 1], temperature=0.8, top_p=0.95)[0]
        for i in range(32)
    ]
    assert together == alone


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_draws_nothing(value: float) -> None:
    logits = np.zeros((2, 300), np.float32)
    logits[1, 290] = value
    first, second = drawn(logits, [0.5, 0.5], top_p=0.9)
    assert first is not None
    assert second is None
    assert drawn(np.full((1, 5), -np.inf, np.float32), [0.5]) == [None]


@given(seed=st.integers(0, 2**32), logprobs=st.sampled_from([None, 0, 3]))
@settings(max_examples=20)
def test_many_sequences_are_chosen_for_as_one_is(seed: int, logprobs: int | None) -> None:
    random = np.random.default_rng(seed)
    kinds = [
        SamplingParams(temperature=0.0, logprobs=logprobs),
        SamplingParams(temperature=0.7, top_p=0.9, repetition_penalty=1.3, logprobs=logprobs),
        SamplingParams(temperature=1.0, top_k=7, typical_p=0.8, logprobs=logprobs),
        SamplingParams(temperature=1.0, top_p=0.99, eta_cutoff=0.3, logprobs=logprobs),
        SamplingParams(temperature=1.0, top_p=0.99, epsilon_cutoff=0.1, logprobs=logprobs),
        SamplingParams(temperature=1.3, top_h=0.3, logprobs=logprobs),
        SamplingParams(temperature=1.3, min_p=0.1, min_new_tokens=2, logprobs=logprobs),
    ]
    rows = [
        ((random.standard_normal(400) * 3).astype(np.float32), text(params), lambda _: 0.37)
        for params in kinds
    ]
    for (logits, transcript, number), found in zip(rows, choosing.choose_all(rows), strict=True):
        alone = choosing.choose(logits, transcript, number)
        assert isinstance(found, Chosen)
        assert found.token == alone.token
        assert found.top == alone.top
        assert found.logprob == alone.logprob
        assert (found.sampled_logprob is None) == (alone.sampled_logprob is None)
        if alone.sampled_logprob is not None and not at_a_cut(logits, transcript):
            assert found.sampled_logprob == pytest.approx(alone.sampled_logprob, abs=1e-5)


def at_a_cut(logits: Floats, transcript: Transcript) -> bool:
    """Whether a token lies so near to where top-p cuts that rounding decides about it."""
    params = transcript.params
    if params.top_p == 1:
        return False
    kept = []
    for top_p in (params.top_p - 2e-5, params.top_p + 2e-5):
        transcript.params = replace(params, top_p=top_p)
        kept.append(int((choosing.shape_logits(logits, transcript) > -np.inf).sum()))
    transcript.params = params
    return kept[0] != kept[1]


@pytest.mark.parametrize("seed", [183])
def test_a_token_at_the_cut_is_known_as_such(seed: int) -> None:
    random = np.random.default_rng(seed)
    random.standard_normal(400)
    logits = (random.standard_normal(400) * 3).astype(np.float32)
    params = SamplingParams(temperature=0.7, top_p=0.9, repetition_penalty=1.3)
    assert at_a_cut(logits, text(params))
    assert not at_a_cut(np.linspace(0, 9, 400, dtype=np.float32) ** 2, text(params))


def test_what_is_wrong_with_one_is_told_of_it_alone() -> None:
    params = SamplingParams(temperature=1.0, top_p=0.9)
    good, bad = np.zeros(9, np.float32), np.full(9, np.nan, np.float32)
    forbidden = SamplingParams(
        temperature=1.0, logit_bias=tuple((i, -float("inf")) for i in range(9))
    )
    results = choosing.choose_all(
        [
            (bad, text(params), lambda _: 0.5),
            (good, text(params), lambda _: 0.5),
            (good, text(forbidden), lambda _: 0.5),
        ]
    )
    assert [type(each) for each in results] == [NumericalError, Chosen, InvalidInput]

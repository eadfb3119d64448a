"""Penalties, filters and the draw, against transformers' own logits processors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation import logits_process as hf

from llmcli.engine import sampling
from llmcli.engine.decoder import Floats
from llmcli.engine.history import History
from llmcli.engine.params import SamplingParams

VOCAB = 50
# Multiples of 1/16: exact in float32, so that sums and ties come out the same on both sides.
NUMBERS = st.integers(-160, 160).map(lambda n: n / 16)
LOGITS = st.lists(NUMBERS, min_size=VOCAB, max_size=VOCAB)
TOKENS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=30)
EXAMPLES = settings(max_examples=150)


def floats(values: Any) -> Floats:
    return np.array(values, np.float32)


def assert_same(kept: Floats, theirs: Tensor, row: Tensor) -> None:
    """The same tokens are left, and they have the same probabilities.

    Which of equal logits go at a cut is up to a sort, so equal ones count as one.
    """
    ours = torch.from_numpy(kept)
    assert (ours > -math.inf).sum() == (theirs > -math.inf).sum()
    left = [{*row[each > -math.inf].tolist()} for each in (ours, theirs)]
    assert left[0] == left[1]
    probabilities = [each.softmax(-1).sort().values for each in (ours, theirs)]
    torch.testing.assert_close(*probabilities, rtol=1e-5, atol=1e-7)


def run_processors(processors: list[Any], logits: Tensor, ids: list[int]) -> Tensor:
    chain: Any = LogitsProcessorList(processors)
    result: Tensor = chain(torch.tensor([ids]), logits[None].clone())
    return result[0]


@EXAMPLES
@given(
    logits=LOGITS,
    prompt=TOKENS,
    generated=st.lists(st.integers(0, VOCAB - 1), max_size=12),
    repetition_penalty=st.sampled_from([0.5, 1.0, 1.2, 2.0]),
    ngram=st.integers(0, 4),
    bias=st.dictionaries(st.integers(0, VOCAB - 1), NUMBERS, max_size=4),
    min_new_tokens=st.integers(0, 8),
)
def test_penalties_agree(
    logits: list[float],
    prompt: list[int],
    generated: list[int],
    repetition_penalty: float,
    ngram: int,
    bias: dict[int, float],
    min_new_tokens: int,
) -> None:
    row, eos = torch.tensor(logits), [3, 4]
    processors: list[Any] = []
    if bias:
        sequence_bias: Any = {(token,): value for token, value in bias.items()}
        processors.append(hf.SequenceBiasLogitsProcessor(sequence_bias))
    processors.append(hf.RepetitionPenaltyLogitsProcessor(repetition_penalty))
    if ngram:
        processors.append(hf.NoRepeatNGramLogitsProcessor(ngram))
    processors.append(
        hf.MinNewTokensLengthLogitsProcessor(len(prompt), min_new_tokens, eos, device="cpu")
    )
    history = History(prompt, ngram_size=ngram)
    for token in generated:
        history.append(token)
    params = SamplingParams(
        repetition_penalty=repetition_penalty,
        no_repeat_ngram_size=ngram,
        logit_bias=tuple(bias.items()),
        min_new_tokens=min_new_tokens,
    )
    given = floats(logits)
    ours = sampling.penalize(given, params, history, eos_ids=eos)
    theirs = run_processors(processors, row, prompt + generated)
    assert torch.equal(torch.from_numpy(ours), theirs)
    assert given.tolist() == logits, "the logits given were changed"


@EXAMPLES
@given(
    logits=LOGITS,
    generated=st.lists(st.integers(0, VOCAB - 1), max_size=20),
    presence=NUMBERS,
    frequency=NUMBERS,
)
def test_presence_and_frequency_follow_their_formula(
    logits: list[float], generated: list[int], presence: float, frequency: float
) -> None:
    """logit - count * frequency - (count > 0) * presence, over what was generated alone."""
    history = History([1, 2, 3, 3])
    for token in generated:
        history.append(token)
    params = SamplingParams(presence_penalty=presence, frequency_penalty=frequency)
    ours = sampling.penalize(floats(logits), params, history)
    for token, logit in enumerate(logits):
        count = generated.count(token)
        expected = logit - count * frequency - (count > 0) * presence
        assert ours[token].item() == pytest.approx(expected, abs=1e-4)


@EXAMPLES
@given(
    logits=LOGITS,
    temperature=st.sampled_from([0.1, 0.5, 1.0, 1.7]),
    top_k=st.integers(0, VOCAB + 5),
    top_p=st.sampled_from([0.05, 0.3, 0.9, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    typical_p=st.sampled_from([0.1, 0.5, 0.95, 1.0]),
)
def test_filters_agree(
    logits: list[float],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    typical_p: float,
) -> None:
    row = torch.tensor(logits)
    params = SamplingParams(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, typical_p=typical_p
    )
    processors: list[Any] = []
    if temperature != 1:
        processors.append(hf.TemperatureLogitsWarper(temperature))
    if top_k:
        processors.append(hf.TopKLogitsWarper(top_k))
    if top_p < 1:
        processors.append(hf.TopPLogitsWarper(top_p))
    if min_p:
        processors.append(hf.MinPLogitsWarper(min_p))
    if typical_p < 1:
        processors.append(hf.TypicalLogitsWarper(typical_p))
    # A filter cuts at a sum or a difference; where a token lies within rounding of the cut,
    # both sides of it are right, and there is nothing to compare.
    assume(_clear_of_cuts(row, processors))
    ours = sampling.filter_logits(floats(logits), params)
    assert_same(ours, run_processors(processors, row, [0]), row)


@EXAMPLES
@given(
    logits=LOGITS,
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
    top_h=st.sampled_from([None, 0.1, 0.4, 0.9, 1.0]),
    epsilon=st.sampled_from([0.0, 3e-4, 0.02, 0.5]),
    eta=st.sampled_from([0.0, 3e-4, 0.02, 0.5]),
)
def test_filters_by_entropy_and_probability_agree(
    logits: list[float], temperature: float, top_h: float | None, epsilon: float, eta: float
) -> None:
    row = torch.tensor(logits)
    params = SamplingParams(
        temperature=temperature, top_h=top_h, epsilon_cutoff=epsilon, eta_cutoff=eta
    )
    processors: list[Any] = []
    if temperature != 1:
        processors.append(hf.TemperatureLogitsWarper(temperature))
    if top_h is not None:
        processors.append(hf.TopHLogitsWarper(top_h))
    if epsilon:
        processors.append(hf.EpsilonLogitsWarper(epsilon))
    if eta:
        processors.append(hf.EtaLogitsWarper(eta, device="cpu"))
    assume(_clear_of_cuts(row, processors))
    ours = sampling.filter_logits(floats(logits), params)
    assert_same(ours, run_processors(processors, row, [0]), row)


@EXAMPLES
@given(
    logits=LOGITS, prompt=TOKENS, generated=st.lists(st.integers(0, 5), max_size=12), data=st.data()
)
def test_settings_of_models_agree(
    logits: list[float], prompt: list[int], generated: list[int], data: st.DataObject
) -> None:
    """What a generation_config.json may say of tokens and places, in transformers' own order."""
    eos, length = [3, 4], len(prompt)
    # Of few ids, and ending as the text ends, so that sequences of several tokens are met.
    few = st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True)
    ends = st.integers(1, 3).map(lambda n: [*(prompt + generated)[-n:], 7])
    sequences = st.lists(few | ends, max_size=4)
    biases: Any = {tuple(each): data.draw(NUMBERS) for each in data.draw(sequences)}
    words = data.draw(sequences)
    suppress, begin = data.draw(few | st.just([])), data.draw(few | st.just([]))
    forced_bos, forced_eos = data.draw(few | st.just([])), data.draw(few | st.just([]))
    min_length, new = data.draw(st.integers(0, 40)), data.draw(st.integers(1, 12))
    decay = data.draw(st.none() | st.tuples(st.integers(0, 6), st.sampled_from([1.01, 1.5])))
    row, processors = torch.tensor(logits), list[Any]()
    if biases:
        processors.append(hf.SequenceBiasLogitsProcessor(biases))
    if words := [each for each in words if len(each) > 1 or each[0] not in eos]:
        processors.append(hf.NoBadWordsLogitsProcessor(words))
    if min_length:
        processors.append(hf.MinLengthLogitsProcessor(min_length, eos, device="cpu"))
    if forced_bos:
        bos: Any = forced_bos
        processors.append(hf.ForcedBOSTokenLogitsProcessor(bos))
    if forced_eos:
        processors.append(hf.ForcedEOSTokenLogitsProcessor(length + new, forced_eos, device="cpu"))
    if decay:
        processors.append(hf.ExponentialDecayLengthPenalty(decay, eos, length))
    if suppress:
        processors.append(hf.SuppressTokensLogitsProcessor(suppress))
    if begin:
        start = length if length > 1 or not forced_bos else length + 1
        processors.append(hf.SuppressTokensAtBeginLogitsProcessor(begin, start))
    history = History(prompt)
    for token in generated:
        history.append(token)
    params = SamplingParams(
        max_new_tokens=new,
        sequence_bias=tuple(biases.items()),
        bad_words_ids=tuple(map(tuple, words)),
        min_length=min_length,
        forced_bos_token_id=tuple(forced_bos),
        forced_eos_token_id=tuple(forced_eos),
        exponential_decay_length_penalty=decay,
        suppress_tokens=tuple(suppress),
        begin_suppress_tokens=tuple(begin),
    )
    ours = sampling.penalize(floats(logits), params, history, eos_ids=eos)
    theirs = run_processors(processors, row, prompt + generated) if processors else row
    torch.testing.assert_close(torch.from_numpy(ours), theirs)


def _clear_of_cuts(row: Tensor, processors: list[Any]) -> bool:
    """Whether a nudge of the logits leaves transformers' own choice as it is."""
    kept = run_processors(processors, row, [0]) > -math.inf
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        nudge = (torch.rand(len(row), generator=generator) - 0.5) * 2e-5
        # Ties stay ties: equal logits get equal nudges.
        _, group = torch.unique(row, return_inverse=True)
        nudged = row + nudge[group]
        if not torch.equal(run_processors(processors, nudged, [0]) > -math.inf, kept):
            return False
    return True


@given(logits=LOGITS, temperature=st.floats(min_value=0, exclude_min=True, allow_infinity=False))
@EXAMPLES
def test_no_temperature_makes_nan(logits: list[float], temperature: float) -> None:
    row = floats(logits)
    row[0] = -math.inf
    shaped = sampling.apply_temperature(row, temperature)
    assert not np.isnan(shaped).any()
    assert shaped.max() == 0
    assert shaped[0] == -math.inf
    assert shaped.argmax() == row.argmax()


def test_the_smallest_temperature_is_greedy() -> None:
    shaped = sampling.apply_temperature(floats([1.0, 1.5, -3.0]), 5e-324)
    assert sampling.softmax(shaped).tolist() == [0, 1, 0]


def test_steps_that_are_off_are_left_out() -> None:
    assert sampling.filter_steps(SamplingParams()) == []
    assert sampling.filter_steps(SamplingParams(temperature=0)) == []
    names = [name for name, _, _ in sampling.filter_steps(SamplingParams(top_k=1, min_p=0.1))]
    assert names == ["top_k", "min_p"]


def test_ignore_eos_forbids_it_for_ever() -> None:
    params = SamplingParams(ignore_eos=True)
    shaped = sampling.penalize(floats([0] * 5), params, History([1]), eos_ids=[2, 4])
    assert shaped.tolist() == [0, 0, -math.inf, 0, -math.inf]


def _counts(logits: Floats, draws: int) -> list[int]:
    counts = [0] * len(logits)
    for position in range(draws):
        counts[sampling.draw(logits, sampling.uniform(11, 0, 0, position))] += 1
    return counts


def test_draw_follows_the_distribution() -> None:
    """Pearson's chi-square over 12 tokens; 31.26 is the 0.999 quantile for 11 degrees."""
    logits = np.random.default_rng(5).standard_normal(12, np.float32)
    draws = 20_000
    counts = _counts(logits, draws)
    expected = (sampling.softmax(logits) * draws).tolist()
    chi_square = sum((o - e) ** 2 / e for o, e in zip(counts, expected, strict=True))
    assert chi_square < 31.26


def test_draw_never_takes_what_was_filtered_out() -> None:
    logits = floats([-math.inf, 0.0, -math.inf, -math.inf, 1.0, -math.inf])
    counts = _counts(logits, 2000)
    assert counts[0] == counts[2] == counts[3] == counts[5] == 0
    assert counts[1]
    assert counts[4]


KEYS = st.tuples(
    st.integers(0, 2**63 - 1), st.integers(0, 2**40), st.integers(0, 1000), st.integers(0, 10**6)
)


@given(one=KEYS, other=KEYS)
@EXAMPLES
def test_a_number_is_a_function_of_its_place(
    one: tuple[int, int, int, int], other: tuple[int, int, int, int]
) -> None:
    number = sampling.uniform(*one)
    assert 0 <= number < 1
    assert number == sampling.uniform(*one)
    assert (number == sampling.uniform(*other)) == (one == other)


@given(KEYS)
@EXAMPLES
def test_numbers_are_philoxs(place: tuple[int, int, int, int]) -> None:
    seed, record, index, position = place
    generator = np.random.Philox(
        key=np.array([seed, 0], np.uint64),
        counter=np.array([position, index, record, 0], np.uint64),
    )
    assert sampling.uniform(*place) == (int(generator.random_raw()) >> 11) * 2.0**-53


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    size=st.sampled_from([2049, 5000, 20000]),
    spread=st.sampled_from([0.01, 1.0, 3.0, 30.0]),
    top_p=st.sampled_from([0.01, 0.3, 0.9, 0.95, 0.999]),
    levels=st.sampled_from([None, 16]),
)
@example(seed=104554, size=20000, spread=0.01, top_p=0.3, levels=None)
def test_top_p_of_a_large_vocabulary(
    seed: int, size: int, spread: float, top_p: float, levels: int | None
) -> None:
    logits = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * spread
    if levels is not None:  # many ties
        logits = (logits * levels).round() / levels
    ours = torch.from_numpy(sampling.filter_top_p(logits.numpy(), top_p))
    theirs = run_processors([hf.TopPLogitsWarper(top_p)], logits, [0])
    border = ours[ours > -math.inf].min()
    probs = logits.double().softmax(-1)
    # The reference adds up float32 from the smallest on, so at the border it may count one token
    # more or less; which of several equal ones go is up to its sorting.
    masses = [probs[each > -math.inf].sum() for each in (ours, theirs)]
    assert abs(masses[0] - masses[1]) <= 1.01 * probs[logits == border][0] + 1e-5
    assert (logits[ours == -math.inf] <= border).all()
    kept = ours > -math.inf
    assert torch.equal(ours[kept], logits[kept])
    assert probs[kept].sum() >= top_p - 1e-5
    assert probs[kept].sum() - probs[kept].min() <= top_p + 1e-5


def test_top_p_keeps_the_most_likely_token_of_a_large_vocabulary() -> None:
    logits = np.zeros(3000, np.float32)
    logits[77] = 50.0
    filtered = sampling.filter_top_p(logits, 0.01)
    assert np.flatnonzero(filtered > -math.inf).tolist() == [77]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    size=st.sampled_from([1, 3, 255, 256, 257, 1000, 5000]),
    sparse=st.booleans(),
)
def test_draw_inverts_the_distribution_function(seed: int, size: int, sparse: bool) -> None:
    random = np.random.default_rng(seed)
    weights = random.random(size, np.float32)
    if sparse:
        weights[random.random(size) < 0.9] = 0
        weights[seed % size] = 1.0
    number = random.random()
    cumulative = weights.cumsum(dtype=np.float64)
    expected = int(np.searchsorted(cumulative, number * cumulative[-1], side="right"))
    assert sampling.draw_index(weights, number) == expected
    assert weights[sampling.draw_index(weights, 1 - 2.0**-53)] > 0


@settings(max_examples=60)
@given(
    values=st.lists(st.integers(-5, 5), min_size=1, max_size=40),
    size=st.sampled_from([1, 255, 256, 257, 1025]),
)
def test_most_likely_is_the_first_highest(values: list[int], size: int) -> None:
    logits = floats((values * (size // len(values) + 1))[:size])
    assert sampling.most_likely(logits) == logits.tolist().index(max(logits.tolist()))
    count = min(5, size)
    ranked = sorted(range(size), key=lambda i: (-logits[i], i))[:count]
    assert [top.id for top in sampling.top_tokens(logits, count)] == ranked

"""Beam search against transformers' own, and what is ours of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_decoder import ToyDecoder

from llmcli.api import load
from llmcli.engine.beams import beam_search
from llmcli.engine.decoder import Floats
from llmcli.engine.params import SamplingParams, TokenEvent
from llmcli.errors import InvalidInput, NumericalError
from llmcli.models.language_model import LanguageModel
from llmcli.tasks.generate import continue_text
from llmcli.tasks.prompts import sampling_params

TEXT = "Once upon a time there was a little fox"
MODELS = ("tiny_gpt2", "tiny_llama", "tiny_neox")


@pytest.fixture(scope="module")
def models(request: pytest.FixtureRequest) -> dict[str, LanguageModel]:
    return {
        name: load(str(request.getfixturevalue(name)), threads=1)
        for name in ("tiny_gpt2", "tiny_llama", "tiny_neox")
    }


@pytest.fixture(scope="module")
def gpt2(models: dict[str, LanguageModel]) -> LanguageModel:
    return models["tiny_gpt2"]


def events_of(model: LanguageModel, **given: Any) -> list[TokenEvent]:
    should_stop = given.pop("should_stop", bool)
    params = sampling_params(model, given)
    return list(continue_text(model, TEXT, params, should_stop=should_stop).events)


def tokens(events: list[TokenEvent], index: int = 0) -> list[int]:
    return [e.token_id for e in events if e.index == index and e.token_id is not None]


def ours(model: LanguageModel, eos_ids: list[int], **given: Any) -> list[list[int]]:
    ids = model.tokenizer.ids(TEXT)
    params = SamplingParams(temperature=0, **given)
    count = given["max_new_tokens"]
    found = beam_search(model.decoder(), ids, params, max_new_tokens=count, eos_ids=eos_ids)
    return [[*row, *[-1] * (count - len(row))] for row in found]


def transformers_own(model: LanguageModel, eos_ids: list[int], **given: Any) -> list[list[int]]:
    """With -1 behind what has ended."""
    ids = torch.tensor([model.tokenizer.ids(TEXT)])
    output: Any = model.module.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0,
        eos_token_id=eos_ids or None, **given,
    )  # fmt: skip
    rows = []
    for row in output[:, ids.shape[1] :].tolist():
        ends = [row.index(token) for token in eos_ids if token in row]
        row = row[: min(ends) + 1] if ends else row
        rows.append([*row, *[-1] * (given["max_new_tokens"] - len(row))])
    return rows


@settings(max_examples=40)
@given(data=st.data())
def test_what_transformers_finds(models: dict[str, LanguageModel], data: st.DataObject) -> None:
    """Ends are frequent tokens here, so that texts end, and lengths differ."""
    model = models[data.draw(st.sampled_from(MODELS))]
    with torch.inference_mode():
        last = model.module(torch.tensor([model.tokenizer.ids(TEXT)])).logits[0, -1]
    likely = last.topk(40).indices.tolist()
    eos_ids = data.draw(st.lists(st.sampled_from(likely), max_size=3, unique=True))
    beams = data.draw(st.integers(2, 5))
    given: dict[str, Any] = {
        "num_beams": beams,
        "num_return_sequences": data.draw(st.integers(1, beams)),
        "max_new_tokens": data.draw(st.integers(1, 10)),
        "length_penalty": data.draw(st.sampled_from([1.0, 0.0, -1.5, 2.0])),
        "early_stopping": data.draw(st.sampled_from([False, True, "never"])),
        "repetition_penalty": data.draw(st.sampled_from([1.0, 1.3])),
        "no_repeat_ngram_size": data.draw(st.sampled_from([0, 2])),
    }
    assert ours(model, eos_ids, **given) == transformers_own(model, eos_ids, **given)


def test_nothing_comes_from_the_models_own_settings(gpt2: LanguageModel) -> None:
    before = events_of(gpt2, num_beams=3, max_new_tokens=8)
    own = gpt2.module.generation_config
    own.update(suppress_tokens=list(range(200)), min_p=0.9, repetition_penalty=3.0)
    try:
        assert events_of(gpt2, num_beams=3, max_new_tokens=8) == before
    finally:
        own.update(suppress_tokens=None, min_p=None, repetition_penalty=None)


def test_an_end_that_is_ignored_is_never_drawn(gpt2: LanguageModel) -> None:
    first = tokens(events_of(gpt2, num_beams=2, max_new_tokens=6))[0]
    gpt2.__dict__["eos_ids"] = (first,)
    try:
        [ended] = [e for e in events_of(gpt2, num_beams=2, max_new_tokens=6) if e.finish_reason]
        events = events_of(gpt2, num_beams=2, max_new_tokens=6, ignore_eos=True)
    finally:
        del gpt2.__dict__["eos_ids"]
    assert ended.finish_reason == "eos"
    assert first not in tokens(events)
    assert len(tokens(events)) == 6


def test_it_stops_when_asked(gpt2: LanguageModel) -> None:
    events = events_of(gpt2, num_beams=2, max_new_tokens=30, should_stop=lambda: True)
    assert len(tokens(events)) == 1
    assert events[-1].finish_reason == "interrupted"


def search(toy: ToyDecoder, *, record: int = 0, **given: Any) -> list[list[int]]:
    params = SamplingParams(**{"num_beams": 3, "max_new_tokens": 8, "seed": 4, **given})
    found = beam_search(toy, [1, 2, 3], params, max_new_tokens=8, eos_ids=[0], record=record)
    assert not toy.opened, "a slot was kept"
    return found


def test_drawn_beams_are_repeatable() -> None:
    first = search(ToyDecoder(), temperature=1.0)
    assert search(ToyDecoder(), temperature=1.0) == first
    others = [search(ToyDecoder(), temperature=1.0, seed=seed) for seed in (1, 2, 3)]
    records = [search(ToyDecoder(), temperature=1.0, record=record) for record in (1, 2, 3)]
    assert all(other != first for other in (*others, *records))


def test_a_very_low_temperature_draws_the_best() -> None:
    best = search(ToyDecoder(seed=3), temperature=0.0, num_return_sequences=1)
    assert search(ToyDecoder(seed=3), temperature=1e-6, num_return_sequences=1) == best


def test_filters_that_leave_fewer_than_the_beams() -> None:
    assert len(search(ToyDecoder(), temperature=1.0, top_k=1, num_return_sequences=3)) == 3


def test_one_beam_in_a_wide_search_is_greedy() -> None:
    """The first beam alone, by brute force: the best of all texts of two tokens."""
    toy = ToyDecoder(vocab_size=12)
    params = SamplingParams(temperature=0, num_beams=12, max_new_tokens=2)
    [found] = beam_search(toy, [5], params, max_new_tokens=2)

    def score(text: tuple[int, int]) -> float:
        total = 0.0
        for place, token in enumerate(text):
            logits = toy.logits([5, *text[:place]]).astype(np.float64)
            total += float(logits[token] - np.log(np.exp(logits).sum()))
        return total

    texts = [(a, b) for a in range(12) for b in range(12)]
    assert tuple(found) == max(texts, key=score)


def test_what_penalties_and_biases_do() -> None:
    banned = search(ToyDecoder(), temperature=0, logit_bias=((7, -np.inf),))
    assert 7 not in banned[0]
    [free] = search(ToyDecoder(), temperature=0, num_return_sequences=1)
    [varied] = search(ToyDecoder(), temperature=0, presence_penalty=100.0)
    assert len(set(varied)) == len(varied)
    assert len(free) <= 8


def test_logits_that_are_no_numbers() -> None:
    class Broken(ToyDecoder):
        def logits(self, ids: Any) -> Floats:
            return super().logits(ids) * np.float32(np.nan if len(ids) > 4 else 1)

    with pytest.raises(NumericalError, match="after token 5 "):
        search(Broken(), temperature=0)


def test_settings_that_forbid_every_token() -> None:
    everything = tuple((token, -np.inf) for token in range(50))
    with pytest.raises(InvalidInput, match="forbid every token"):
        search(ToyDecoder(), temperature=0, logit_bias=everything)


@pytest.mark.parametrize("penalty", [1e5, -1e5])
@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_penalties_beyond_reason(penalty: float, early_stopping: Any) -> None:
    """They overflow a float; the search ends with whole texts all the same."""
    given: dict[str, Any] = {"length_penalty": penalty, "early_stopping": early_stopping}
    found = search(ToyDecoder(), temperature=0, num_return_sequences=3, **given)
    assert len(found) == 3
    assert all(0 < len(text) <= 8 for text in found)


def test_slots_are_given_back_when_it_fails() -> None:
    toy = ToyDecoder()
    with pytest.raises(InvalidInput):
        search(toy, temperature=0, suppress_tokens=tuple(range(50)))
    assert not toy.opened


def test_settings_are_not_changed(gpt2: LanguageModel) -> None:
    params = sampling_params(gpt2, {"num_beams": 2, "max_new_tokens": 500})
    before = dataclasses.replace(params)
    events = list(continue_text(gpt2, TEXT, params).events)
    assert params == before
    assert events[-1].finish_reason in ("context", "eos")

"""SamplingParams refuses what it cannot mean."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from llmcli.engine.params import MAX_SEED, SamplingParams, TokenEvent, check_range
from llmcli.errors import InvalidInput

OUTSIDE: dict[str, list[Any]] = {
    "max_new_tokens": [0, -1, 2.5],
    "min_new_tokens": [-1, 0.5],
    "temperature": [-0.1, math.inf],
    "top_k": [-1, 2.5],
    "top_p": [0, -0.5, 1.5],
    "min_p": [-0.1, 1.1],
    "typical_p": [0, 1.01],
    "repetition_penalty": [0, -1, math.inf],
    "presence_penalty": [math.inf, -math.inf],
    "frequency_penalty": [math.inf, -math.inf],
    "no_repeat_ngram_size": [-1],
    "num_return_sequences": [0, -3],
    "num_beams": [0],
    "seed": [-1, MAX_SEED + 1, 0.5],
    "logprobs": [-1],
}


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, values in OUTSIDE.items() for v in [*values, math.nan]]
)
def test_outside_the_range(name: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=name):
        SamplingParams(**{name: value})
    with pytest.raises(InvalidInput, match="--option"):
        check_range(name, value, label="--option")


EDGES: dict[str, list[Any]] = {
    "max_new_tokens": [1, None],
    "temperature": [0, 5e-324, 1e308],
    "top_k": [0, 10**9],
    "top_p": [5e-324, 1],
    "min_p": [0, 1],
    "typical_p": [1e-9, 1],
    "seed": [0, MAX_SEED, None],
    "logprobs": [0, None],
    "presence_penalty": [-2.0, 0, 2.0],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in EDGES.items() for v in values])
def test_the_edges_of_the_range(name: str, value: Any) -> None:
    assert getattr(SamplingParams(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stop": ("",)}, "empty"),
        ({"stop": "END"}, "one string"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, "above max_new_tokens"),
        ({"logit_bias": ((-1, 0.0),)}, "logit_bias"),
        ({"logit_bias": ((1, math.nan),)}, "logit_bias"),
        ({"logit_bias": ((1, math.inf),)}, "logit_bias"),
        ({"overflow": "wrap"}, "overflow"),
    ],
)
def test_what_makes_no_sense(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        SamplingParams(**settings)


def test_params_and_events_do_not_change() -> None:
    params = SamplingParams(logit_bias=((1, -math.inf),))
    with pytest.raises(FrozenInstanceError):
        params.top_k = 3  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        TokenEvent(index=0, text="").text = "x"  # type: ignore[misc]
    assert not params.greedy
    assert SamplingParams(temperature=0).greedy

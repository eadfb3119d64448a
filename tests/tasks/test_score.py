"""Scoring as a task, against sums by transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmcli.api import load
from llmcli.errors import GateFailed, InvalidInput
from llmcli.tasks.score import Gates, OnWindow, ScoreRequest, Scoring

TEXT = "The fox said to the crow: give me the cheese."


@contextmanager
def unwatched(scorer: Any) -> Iterator[OnWindow]:
    yield lambda window, scores: None


@pytest.fixture(scope="module")
def scoring(tiny_gpt2: Path) -> Scoring:
    return Scoring(model=load(str(tiny_gpt2)), request=ScoreRequest())


@torch.no_grad()
def nats(folder: Path, before: list[int], after: list[int]) -> float:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    logits = model(torch.tensor([[*before, *after]])).logits[0].double().log_softmax(-1)
    places = range(len(before) - 1, len(before) + len(after) - 1)
    return -sum(float(logits[at, token]) for at, token in zip(places, after, strict=True))


def test_a_text_is_scored_from_its_first_token(scoring: Scoring, tiny_gpt2: Path) -> None:
    tokenizer = scoring.model.tokenizer
    ids, start = tokenizer.ids(TEXT), tokenizer.start_id
    assert start is not None
    answer = scoring.whole(iter([TEXT[:11], TEXT[11:]]), unwatched)
    assert answer.score.tokens == len(ids)
    assert answer.score.nll == pytest.approx(nats(tiny_gpt2, [start], ids), rel=1e-5)
    record = answer.to_dict()
    assert record["convention"] == "default"
    assert record["tokens_per_second"] > 0


def test_a_prompt_is_read_and_not_scored(scoring: Scoring, tiny_gpt2: Path) -> None:
    tokenizer, prompt = scoring.model.tokenizer, "Once upon a time."
    start = tokenizer.start_id
    assert start is not None
    asked = Scoring(model=scoring.model, request=ScoreRequest(prompt=prompt))
    found = asked.whole([TEXT], unwatched)
    both = tokenizer.ids(prompt + TEXT)
    assert both[: len(tokenizer.ids(prompt))] == tokenizer.ids(prompt)
    after = both[len(tokenizer.ids(prompt)) :]
    expected = nats(tiny_gpt2, [start, *tokenizer.ids(prompt)], after)
    assert found.score.nll == pytest.approx(expected, rel=1e-5)
    assert found.to_dict()["prompt"] == prompt


def test_a_model_beside_itself(scoring: Scoring) -> None:
    answer = scoring.versus(scoring.model, [TEXT], unwatched)
    record = answer.to_dict()
    assert record["vs"]["perplexity"] == record["perplexity"]
    assert record["difference"]["bits_per_byte"] == pytest.approx(0.0, abs=1e-12)


def test_gates(scoring: Scoring) -> None:
    score = scoring.whole([TEXT], unwatched).score
    Gates(max_ppl=score.perplexity + 1).check(score)
    with pytest.raises(GateFailed):
        Gates(max_ppl=score.perplexity - 1).check(score)


def test_nothing_to_score(scoring: Scoring) -> None:
    with pytest.raises(InvalidInput):
        scoring.whole([""], unwatched)

"""Ranking against log-likelihoods summed by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from llmcli.engine.transformers_decoder import TransformersDecoder
from llmcli.errors import ContextOverflow, InvalidInput
from llmcli.scoring.likelihood import Likelihood
from llmcli.tasks.rank import RankedChoice, join_choice, rank
from llmcli.tokenization.tokenizer import Tokenizer

PROMPT = "The fox said to the crow:"
CHOICES = ["give me the cheese", "nothing at all", "東京", "a"]


@pytest.fixture(scope="module")
def module(tiny_gpt2: Path) -> Any:
    library: Any = transformers
    return library.AutoModelForCausalLM.from_pretrained(str(tiny_gpt2)).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_gpt2: Path) -> Tokenizer:
    return Tokenizer.from_folder(tiny_gpt2)


def ranked(module: Any, tokenizer: Tokenizer, *args: Any, **settings: Any) -> list[RankedChoice]:
    likelihood = Likelihood(TransformersDecoder(module, n_positions=64))
    return rank(likelihood, tokenizer, *args, n_positions=64, **{"bos_id": 0, **settings})


def loglikelihood(module: Any, before: list[int], after: list[int]) -> float:
    ids = torch.tensor([[*before, *after]])
    with torch.no_grad():
        logprobs = torch.log_softmax(module(ids[:, :-1]).logits[0].double(), 1)
    rows = logprobs[len(before) - 1 :]
    return float(rows.gather(1, ids[0, len(before) :, None]).sum())


@pytest.mark.parametrize("normalize", ["none", "tokens", "bytes", "pmi"])
@pytest.mark.parametrize("prompt", [PROMPT, ""])
def test_scores(module: Any, tokenizer: Tokenizer, normalize: str, prompt: str) -> None:
    expected = []
    for choice in CHOICES:
        behind = f" {choice}" if prompt else choice
        before, after = tokenizer.ids(prompt), tokenizer.ids(behind)
        value = loglikelihood(module, before or [0], after)
        if normalize == "tokens":
            value /= len(after)
        elif normalize == "bytes":
            value /= len(choice.encode())
        elif normalize == "pmi":
            value -= loglikelihood(module, [0], after)
        expected.append(value)
    found = ranked(module, tokenizer, prompt, CHOICES, normalize=normalize)
    assert [each.score for each in found] == pytest.approx(sorted(expected, reverse=True), abs=1e-4)
    assert [CHOICES[each.index] for each in found] == [each.choice for each in found]
    weights = [math.exp(value) for value in expected]
    for each in found:
        assert each.probability == pytest.approx(weights[each.index] / sum(weights), rel=1e-3)
    assert sum(each.probability for each in found) == pytest.approx(1)


def test_white_space_at_the_prompts_end_goes_to_the_choice(
    module: Any, tokenizer: Tokenizer
) -> None:
    plain = ranked(module, tokenizer, PROMPT, CHOICES)
    spaced = ranked(module, tokenizer, PROMPT + " ", CHOICES)
    assert [each.logprob for each in plain] == pytest.approx([each.logprob for each in spaced])


def test_bos_before_a_prompt(module: Any, tokenizer: Tokenizer) -> None:
    before, after = tokenizer.ids(PROMPT), tokenizer.ids(" a")
    (found,) = ranked(module, tokenizer, PROMPT, ["a"], bos=True)
    assert found.logprob == pytest.approx(loglikelihood(module, [0, *before], after), abs=1e-4)
    assert found.probability == 1


@pytest.mark.parametrize(
    ("prompt", "choice", "delimiter", "expected"),
    [
        ("p:", "c", None, " c"),
        ("p: ", "c", None, "c"),
        ("p:\n", "c", None, "c"),
        ("p:", " c", None, " c"),
        ("", "c", None, "c"),
        ("p:", "c", "", "c"),
        ("p: ", "c", "\n", "\nc"),
    ],
)
def test_delimiter(prompt: str, choice: str, delimiter: str | None, expected: str) -> None:
    assert join_choice(prompt, choice, delimiter) == expected


def test_errors(module: Any, tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidInput, match="Choice 2 is empty"):
        ranked(module, tokenizer, PROMPT, ["a", ""])
    with pytest.raises(InvalidInput, match="no choice"):
        ranked(module, tokenizer, PROMPT, [])
    with pytest.raises(ContextOverflow, match="tokens; the model takes 65"):
        ranked(module, tokenizer, PROMPT * 40, ["a"])
    with pytest.raises(InvalidInput, match="neither a BOS"):
        ranked(module, tokenizer, "", ["a"], bos_id=None)

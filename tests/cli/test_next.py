"""llmcli next: the distribution, raw beside what the filters leave of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from llmcli.api import load
from llmcli.cli.main import cli

PROMPT = "Once upon a"


def run(model: Path, *args: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli, ["next", "-m", str(model), "--threads", "1", *args])
    assert result.exit_code == code, result.stderr
    return result.stdout if code == 0 else result.stderr


def record(model: Path, *args: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(run(model, "--json", *args))
    return parsed


@pytest.fixture(scope="module")
def logits(tiny_gpt2: Path) -> torch.Tensor:
    model = load(str(tiny_gpt2))
    with torch.inference_mode():
        ids = torch.tensor([model.tokenizer.ids(PROMPT)])
        row: torch.Tensor = model.module(ids).logits[0, -1].double()
    return row.clone()


def test_the_models_own_distribution(tiny_gpt2: Path, logits: torch.Tensor) -> None:
    shown = record(tiny_gpt2, "-n", "400", "--temperature", "1", "--top-p", "1", PROMPT)
    logprobs = logits.log_softmax(-1)
    assert [each["id"] for each in shown["candidates"]] == logprobs.argsort(
        descending=True
    ).tolist()
    for each in shown["candidates"]:
        assert each["logprob"] == pytest.approx(logprobs[each["id"]].item(), abs=1e-4)
        assert each["probability"] == pytest.approx(math.exp(each["logprob"]))
        assert each["sampled_logprob"] == each["logprob"]
    assert sum(each["probability"] for each in shown["candidates"]) == pytest.approx(1, abs=1e-4)
    entropy = -(logprobs.exp() * logprobs).sum().item()
    assert shown["entropy"] == pytest.approx(entropy, abs=1e-4)
    assert shown["filters"] == []
    assert shown["prompt_tokens"] == len(load(str(tiny_gpt2)).tokenizer.ids(PROMPT))


def test_what_the_filters_leave(tiny_gpt2: Path, logits: torch.Tensor) -> None:
    shown = record(tiny_gpt2, *["--temperature", "0.5", "--top-k", "20", "--top-p", "0.9"], PROMPT)
    names = [(each["name"], each["value"]) for each in shown["filters"]]
    assert names == [("temperature", 0.5), ("top_k", 20), ("top_p", 0.9)]
    warm = (logits / 0.5).softmax(-1)
    best = warm.topk(20).values
    kept = [each["kept"] for each in shown["filters"]]
    assert kept[:2] == [400, 20]
    assert shown["filters"][1]["mass"] == pytest.approx(best.sum().item(), abs=1e-4)
    assert 0.9 <= shown["filters"][2]["mass"] <= 1
    final = best[: kept[2]] / best[: kept[2]].sum()
    for place, each in enumerate(shown["candidates"]):
        if place < kept[2]:
            assert each["sampled_probability"] == pytest.approx(final[place].item(), abs=1e-4)
        else:
            assert (each["sampled_probability"], each["sampled_logprob"]) == (0.0, None)
    entropy = -(final * final.log()).sum().item()
    assert shown["filters"][2]["entropy"] == pytest.approx(entropy, abs=1e-4)


def test_greedy_leaves_one(tiny_gpt2: Path) -> None:
    shown = record(tiny_gpt2, "-n", "3", "--greedy", PROMPT)
    assert [each["sampled_probability"] for each in shown["candidates"]] == [1.0, 0.0, 0.0]
    assert shown["filters"][-1]["kept"] == 1
    assert shown["filters"][-1]["entropy"] == 0


def test_penalties_are_a_step_of_their_own(tiny_gpt2: Path) -> None:
    best = record(tiny_gpt2, PROMPT)["candidates"][0]
    shown = record(tiny_gpt2, "--logit-bias", f"{best['id']}=-inf", PROMPT)
    assert shown["filters"][0]["name"] == "penalties"
    assert shown["filters"][0]["kept"] == 399
    assert shown["filters"][0]["mass"] == pytest.approx(1 - best["probability"], abs=1e-4)
    assert shown["candidates"][0]["id"] == best["id"], "raw stays beside filtered"
    assert shown["candidates"][0]["sampled_logprob"] is None


def test_the_table(tiny_gpt2: Path) -> None:
    shown = run(tiny_gpt2, "-n", "3", "--top-k", "2", PROMPT)
    lines = shown.splitlines()
    assert lines[0].split() == ["token", "id", "probability", "logprob", "sampled"]
    rows = lines[1:4]
    candidates = record(tiny_gpt2, "-n", "3", "--top-k", "2", PROMPT)["candidates"]
    for row, candidate in zip(rows, candidates, strict=True):
        assert f" {candidate['id']} " in row
        assert f"{candidate['probability']:.2%}" in row
    assert "–" in rows[2]
    assert "entropy " in shown
    assert "top-k 2: 2 tokens" in shown
    assert "\x1b" not in shown


def test_a_prompt_that_just_fits(tiny_gpt2: Path) -> None:
    """It needs no room behind it; one more token does not fit."""
    model = load(str(tiny_gpt2))
    [comma] = model.tokenizer.ids(",")
    assert model.tokenizer.ids("," * 64) == [comma] * 64
    assert record(tiny_gpt2, "," * 64)["prompt_tokens"] == 64
    error = run(tiny_gpt2, "," * 65, code=2)
    assert "The prompt has 65 tokens; the context holds 64." in error
    whole = record(tiny_gpt2, "," * 64)["candidates"]
    for overflow in ("left", "middle", "slide"):
        assert record(tiny_gpt2, "--overflow", overflow, "," * 64)["candidates"] == whole


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([""], "The prompt is empty"),
        (["--count", "0", "x"], "'-n' / '--count'"),
        (["--logit-bias", "nonsense", "x"], "--logit-bias 'nonsense' is not TOKEN=VALUE"),
        (["--logit-bias", "5=1e308", "x"], "drive a logit to infinity"),
    ],
)
def test_wrong_calls(tiny_gpt2: Path, args: list[str], words: str) -> None:
    error = run(tiny_gpt2, *args, code=2)
    assert words in error
    assert error.count("\n") == 1

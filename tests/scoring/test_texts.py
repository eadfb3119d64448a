"""Whole texts by every convention, each computed again by a plain loop over transformers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from llmcli.engine.transformers_decoder import TransformersDecoder
from llmcli.errors import InvalidInput
from llmcli.scoring.likelihood import Likelihood
from llmcli.scoring.statistics import Score
from llmcli.scoring.texts import TextScorer, split_pair
from llmcli.scoring.token_scores import TokenScores
from llmcli.scoring.windows import Window, make_convention
from llmcli.tokenization.tokenizer import Tokenizer

TEXT = (
    "Once upon a time there was a little fox.  The fox said: 東京 is far, naïve café!\n\n"
    "She didn't know what to say, so she said nothing at all, and waited. 🦊\n"
) * 3
BOS = 0


class Model:
    def __init__(self, folder: Path) -> None:
        library: Any = transformers
        self.module = library.AutoModelForCausalLM.from_pretrained(str(folder)).eval()
        self.tokenizer = Tokenizer.from_folder(folder)

    def scorer(self, name: Any = "default", *, prompt: str = "", **settings: Any) -> TextScorer:
        convention = make_convention(name, n_positions=64, bos_id=BOS, **settings)
        return TextScorer(
            tokenizer=self.tokenizer,
            convention=convention,
            likelihood=Likelihood(TransformersDecoder(self.module, n_positions=64)),
            prompt=prompt,
        )

    def score(self, text: str, name: Any = "default", **settings: Any) -> Score:
        ((_, tally),) = self.scorer(name, **settings).run([("", [text])])
        return tally.score()

    def nll(self, ids: list[int]) -> torch.Tensor:
        """Negative log-likelihood of ids[1:], each given those before it."""
        with torch.no_grad():
            logits = self.module(torch.tensor([ids[:-1]])).logits[0]
        return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")

    def sliding(self, ids: list[int], stride: int) -> list[float]:
        """The same where windows begin at multiples of the stride, each token in its first."""
        found: list[float] = []
        for begin in range(0, len(ids), stride):
            window = self.nll(ids[begin : begin + 65]).tolist()
            found += window[len(found) - begin :]
            if len(found) == len(ids) - 1:
                break
        return found


@pytest.fixture(scope="module")
def model(tiny_gpt2: Path) -> Model:
    return Model(tiny_gpt2)


@pytest.mark.parametrize("stride", [None, 1, 17, 63])
def test_default(model: Model, stride: int | None) -> None:
    ids = [BOS, *model.tokenizer.ids(TEXT)]
    nlls = model.sliding(ids, stride or 32)
    score = model.score(TEXT, stride=stride)
    assert score.tokens == len(ids) - 1
    assert score.nll == pytest.approx(math.fsum(nlls), rel=1e-5)
    assert score.perplexity == pytest.approx(math.exp(math.fsum(nlls) / len(nlls)), rel=1e-4)
    assert score.words == len(TEXT.split())
    assert score.bytes == len(TEXT.encode())
    assert score.bits_per_byte == pytest.approx(
        math.fsum(nlls) / math.log(2) / len(TEXT.encode()), rel=1e-4
    )


@pytest.mark.parametrize("stride", [None, 16])
def test_hf(model: Model, stride: int | None) -> None:
    """The loop of the guide, with transformers' own loss."""
    encodings = torch.tensor([model.tokenizer.ids(TEXT)])
    step, length = stride or 32, encodings.shape[1]
    nll_sum, n_tokens, previous_end = 0.0, 0, 0
    for begin in range(0, length, step):
        end = min(begin + 64, length)
        input_ids = encodings[:, begin:end]
        target_ids = input_ids.clone()
        target_ids[:, : -(end - previous_end)] = -100
        with torch.no_grad():
            loss = model.module(input_ids, labels=target_ids).loss
        counted = int((target_ids != -100).sum()) - 1
        nll_sum += float(loss) * counted
        n_tokens += counted
        previous_end = end
        if end == length:
            break
    score = model.score(TEXT, "hf", stride=stride)
    assert score.tokens == n_tokens
    assert score.perplexity == pytest.approx(math.exp(nll_sum / n_tokens), rel=1e-4)
    assert score.bits_per_byte is None


def test_lm_eval(model: Model) -> None:
    ids = model.tokenizer.ids(TEXT)
    likelihood = -float(model.nll([BOS, *ids[:64]]).sum())
    for begin in range(64, len(ids), 64):
        end = min(begin + 64, len(ids))
        likelihood -= float(model.nll(ids[end - 65 : end])[-(end - begin) :].sum())
    score = model.score(TEXT, "lm-eval")
    assert score.nll == pytest.approx(-likelihood, rel=1e-5)
    words, size = len(re.split(r"\s+", TEXT)), len(TEXT.encode("utf-8"))
    assert score.words == words == len(TEXT.split()) + 1
    assert score.word_perplexity == pytest.approx(math.exp(-likelihood / words), rel=1e-4)
    assert score.byte_perplexity == pytest.approx(math.exp(-likelihood / size), rel=1e-4)
    assert score.bits_per_byte == pytest.approx(-likelihood / size / math.log(2), rel=1e-4)


@pytest.mark.parametrize("bos", [False, True])
def test_llama_cpp(model: Model, bos: bool) -> None:
    ids = model.tokenizer.ids(TEXT)
    ids = [BOS, *ids] if bos else ids
    nll, count = 0.0, 0
    for chunk in range(len(ids) // 48):
        tokens = ids[chunk * 48 : (chunk + 1) * 48]
        if bos:
            tokens[0] = BOS
        nll += float(model.nll(tokens)[24:].sum())
        count += 48 - 24 - 1
    score = model.score(TEXT, "llama.cpp", context=48, bos=bos)
    assert score.tokens == count
    assert score.perplexity == pytest.approx(math.exp(nll / count), rel=1e-4)


def test_one_token_has_a_number_with_bos(model: Model) -> None:
    (token,) = model.tokenizer.ids("x")
    score = model.score("x")
    assert score.tokens == 1
    assert score.perplexity == pytest.approx(math.exp(float(model.nll([BOS, token]))), rel=1e-5)
    ((_, without),) = model.scorer(bos=False).run([("", ["x"])])
    assert without.weight == 0


def test_parts_do_not_matter(model: Model) -> None:
    whole = model.score(TEXT)
    scorer = model.scorer()
    ((_, tally),) = scorer.run([("", iter(TEXT))])
    assert tally.score() == whole
    assert scorer.total.score() == whole


def test_long_texts_are_read_as_they_are_scored(model: Model) -> None:
    class Enough(Exception):
        pass

    asked = 0

    def parts() -> Iterator[str]:
        nonlocal asked
        for _ in range(100):
            asked += 1
            yield TEXT * 100

    def watch(key: str, window: Window, scores: TokenScores) -> None:
        raise Enough

    with pytest.raises(Enough):
        list(model.scorer().run([("", parts())], on_window=watch))
    assert 0 < asked < 60


def test_rows_come_in_order_and_total_is_their_sum(model: Model) -> None:
    texts = ["a fox", "", "The crow said: " * 40, "x", TEXT]
    scorer = model.scorer()
    rows = list(scorer.run(enumerate([text] for text in texts)))
    assert [key for key, _ in rows] == [0, 1, 2, 3, 4]
    for (_, tally), text in zip(rows, texts, strict=True):
        if text:
            alone = model.score(text)
            assert tally.nll == pytest.approx(alone.nll, rel=1e-5)
    assert rows[1][1].weight == 0
    assert scorer.total.nll == pytest.approx(sum(tally.nll for _, tally in rows))
    assert scorer.total.counts.words == sum(len(text.split()) for text in texts)


@pytest.mark.parametrize("prompt", ["The fox said:", "The fox said: ", "The fox said", "a " * 90])
@pytest.mark.parametrize("text", [" give me", "give me the cheese", TEXT])
def test_a_prompt_is_encoded_with_the_text_and_not_counted(
    model: Model, prompt: str, text: str
) -> None:
    before, after = split_pair(model.tokenizer, prompt, text)
    assert before + after == model.tokenizer.ids(prompt + text)
    ids = [BOS, *before, *after]
    nlls = model.sliding(ids, 32)[len(before) :]
    score = model.score(text, prompt=prompt)
    assert score.tokens == len(after)
    assert score.nll == pytest.approx(math.fsum(nlls), rel=1e-5)
    assert score.bytes == len(text.encode())


def test_a_prompt_needs_the_default_convention(model: Model) -> None:
    with pytest.raises(InvalidInput, match="default convention"):
        model.scorer("lm-eval", prompt="x")


def test_control_tokens_in_a_text_are_text(model: Model) -> None:
    assert model.score("<|endoftext|>").tokens > 1
    scorer = model.scorer()
    scorer.special = "allow"
    ((_, tally),) = scorer.run([("", ["<|endoftext|>"])])
    assert tally.weight == 1

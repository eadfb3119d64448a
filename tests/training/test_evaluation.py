from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2LMHeadModel

from llmcli.tokenization.tokenizer import Tokenizer
from llmcli.training.corpus import Document
from llmcli.training.evaluation import Likelihood, exact_likelihood, windows
from llmcli.training.tokens import write_tokens


@given(length=st.integers(1, 300), context=st.integers(1, 40), stride=st.integers(1, 40))
def test_each_target_is_scored_once_from_enough_before_it(
    length: int, context: int, stride: int
) -> None:
    stride = min(stride, context)
    scored = []
    for start, end, first in windows(length, context=context, stride=stride):
        assert 0 < end - start <= context
        assert start <= first < end
        for target in range(first, end):
            scored.append(target)
            assert target - start + 1 >= min(target + 1, context - stride + 1)
    assert scored == list(range(length))


def test_exact_likelihood_is_the_sum_over_the_text(tiny_gpt2: Path, tmp_path: Path) -> None:
    """Against one token at a time, from the same inputs, in plain transformers."""
    tokenizer = Tokenizer.from_folder(tiny_gpt2)
    model = GPT2LMHeadModel.from_pretrained(tiny_gpt2)
    texts = ["Once upon a time there was a fox. " * 12, "The crow."]
    documents = [Document(str(n), text) for n, text in enumerate(texts)]
    file = write_tokens(documents, tmp_path / "v.bin", tokenizer=tokenizer, end_of_text=0)
    context = 16
    result = exact_likelihood(
        model,
        file,
        file.open(tmp_path),
        context=context,
        end_of_text=0,
        autocast=nullcontext(),
        device=torch.device("cpu"),
    )
    nats = 0.0
    count = 0
    for text in texts:
        ids = [0, *tokenizer.ids(text)]
        for at in range(1, len(ids)):
            # Windows of 16 that advance by 8: the first begins at 0.
            start = 0 if at <= context else (at - context + 7) // 8 * 8
            start = max(0, min(start, len(ids) - 1 - context)) if at > context else 0
            with torch.no_grad():
                logits = model(torch.tensor([ids[start:at]])).logits[0, -1]
            nats -= float(logits.log_softmax(-1)[ids[at]])
            count += 1
    assert result.tokens == count
    assert result.bytes == sum(len(text.encode()) for text in texts)
    assert result.nats == pytest.approx(nats, rel=1e-5)


def test_figures() -> None:
    likelihood = Likelihood(nats=100 * math.log(2), tokens=50, bytes=200)
    assert likelihood.bits_per_byte == pytest.approx(0.5)
    assert likelihood.perplexity == pytest.approx(4.0)
    assert likelihood.loss == pytest.approx(2 * math.log(2))

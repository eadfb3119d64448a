from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import GPT2LMHeadModel

from llmcli.cli.main import cli
from llmcli.tokenization.tokenizer import Tokenizer
from llmcli.training.corpus import Document
from llmcli.training.evaluation import Likelihood, exact_likelihood
from llmcli.training.tokens import write_tokens


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
    )
    nats = 0.0
    count = 0
    for text in texts:
        ids = [0, *tokenizer.ids(text)]
        for at in range(1, len(ids)):
            # Windows of 16 that advance by 8: the first begins at 0, the last may be short.
            start = 0 if at <= context else (at - context + 7) // 8 * 8
            with torch.no_grad():
                logits = model(torch.tensor([ids[start:at]])).logits[0, -1]
            nats -= float(logits.log_softmax(-1)[ids[at]])
            count += 1
    assert result.tokens == count
    assert result.bytes == sum(len(text.encode()) for text in texts)
    assert result.nats == pytest.approx(nats, rel=1e-5)


def test_the_same_as_score_says(tiny_gpt2: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(tiny_gpt2)
    texts = ["Once upon a time there was a fox. " * 30, "The crow.", "Said the fox: give me " * 9]
    files = [tmp_path / f"{number}.txt" for number in range(len(texts))]
    for path, text in zip(files, texts, strict=True):
        path.write_text(text)
    documents = [Document(path.name, path.read_text()) for path in files]
    file = write_tokens(documents, tmp_path / "v.bin", tokenizer=tokenizer, end_of_text=0)
    module = GPT2LMHeadModel.from_pretrained(tiny_gpt2)
    found = exact_likelihood(module, file, file.open(tmp_path), context=64, end_of_text=0)
    inputs = [argument for path in files for argument in ("-i", str(path))]
    result = CliRunner().invoke(
        cli, ["score", "--by", "file", "--json", "-m", str(tiny_gpt2), *inputs]
    )
    score = json.loads(result.stdout.splitlines()[-1])
    assert found.nats == pytest.approx(score["nll"], rel=1e-6)
    assert (found.tokens, found.bytes) == (score["tokens"], score["bytes"])
    assert found.bits_per_byte == pytest.approx(score["bits_per_byte"], rel=1e-6)


def test_figures() -> None:
    likelihood = Likelihood(nats=100 * math.log(2), tokens=50, bytes=200)
    assert likelihood.bits_per_byte == pytest.approx(0.5)
    assert likelihood.perplexity == pytest.approx(4.0)
    assert likelihood.loss == pytest.approx(2 * math.log(2))

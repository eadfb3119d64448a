"""Two models on one text, against both models' distributions taken one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

import llmcli
from llmcli.engine.decoder import ScoringDecoder
from llmcli.engine.transformers_decoder import TransformersDecoder
from llmcli.scoring.comparison import PairLikelihood, PairTally, compare_by_bytes
from llmcli.scoring.likelihood import Likelihood
from llmcli.scoring.texts import TextScorer
from llmcli.scoring.windows import make_convention
from llmcli.tokenization.tokenizer import Tokenizer

TEXT = "Once upon a time there was a little fox. 東京 is far; naïve café 🦊!\n" * 40


def module_at(folder: Path) -> Any:
    library: Any = transformers
    return library.AutoModelForCausalLM.from_pretrained(str(folder)).eval()


def over(module: Any) -> ScoringDecoder:
    return TransformersDecoder(module, n_positions=64)


def scorer(folder: Path, likelihood: Likelihood, tokenizer: Tokenizer | None = None) -> TextScorer:
    return TextScorer(
        tokenizer=tokenizer or Tokenizer.from_folder(folder),
        convention=make_convention("default", n_positions=64, bos_id=0),
        likelihood=likelihood,
    )


def distributions(module: Any, ids: list[int]) -> torch.Tensor:
    """Log-probabilities at every token of a text, each in the window that scores it."""
    rows: list[torch.Tensor] = []
    for begin in range(0, len(ids), 32):
        with torch.no_grad():
            logits = module(torch.tensor([ids[begin : begin + 65][:-1]])).logits[0]
        rows += torch.log_softmax(logits.double(), 1)[len(rows) - begin :]
        if len(rows) == len(ids) - 1:
            break
    return torch.stack(rows)


@pytest.mark.parametrize("slices", [False, True])
def test_shared_tokenizer(
    tiny_gpt2: Path, tiny_neox: Path, slices: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if slices:
        monkeypatch.setattr("llmcli.scoring.states._STATES", 1)
        monkeypatch.setattr("llmcli.scoring.comparison.ROWS_SLICE", 7)
    first, second = module_at(tiny_gpt2), module_at(tiny_neox)
    text = TEXT[:500]
    tally = PairTally()
    pair = scorer(
        tiny_gpt2, PairLikelihood(llmcli.load(str(tiny_gpt2)).decoder(), over(second), batch_size=2)
    )
    list(pair.run([("", [text])], on_window=lambda _, window, found: tally.add(window, found)))
    comparison = tally.comparison()

    ids = [0, *pair.tokenizer.ids(text)]
    ours, theirs = distributions(first, ids), distributions(second, ids)
    picked = torch.tensor(ids[1:])[:, None]
    differences = (ours.gather(1, picked) - theirs.gather(1, picked))[:, 0]
    assert comparison.per == "token"
    assert comparison.nll == pytest.approx(float(differences.sum()), rel=1e-4)
    assert comparison.mean == pytest.approx(float(differences.mean()), rel=1e-4)
    divergence = (ours.exp() * (ours - theirs)).sum(1).mean()
    assert comparison.kl_divergence == pytest.approx(float(divergence), rel=1e-4)
    same = (ours.argmax(1) == theirs.argmax(1)).double().mean()
    assert comparison.same_top == pytest.approx(float(same))
    assert pair.total.nll == pytest.approx(-float(ours.gather(1, picked).sum()), rel=1e-5)


def test_a_model_against_itself_differs_in_nothing(tiny_gpt2: Path) -> None:
    module = module_at(tiny_gpt2)
    tally = PairTally()
    pair = scorer(tiny_gpt2, PairLikelihood(over(module), over(module)))
    list(pair.run([("", [TEXT])], on_window=lambda _, window, found: tally.add(window, found)))
    found = tally.comparison()
    assert (found.nll, found.mean, found.interval) == (0, 0, (0, 0))
    assert found.kl_divergence == pytest.approx(0, abs=1e-9)
    assert found.same_top == 1


def characters() -> Tokenizer:
    """A tokenizer with a token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend, Path("bytes"))


def test_tokenizers_of_their_own_are_compared_by_bytes(tiny_gpt2: Path, tiny_llama: Path) -> None:
    first = scorer(tiny_gpt2, Likelihood(over(module_at(tiny_gpt2))))
    second = scorer(tiny_llama, Likelihood(over(module_at(tiny_llama))), characters())
    comparison = compare_by_bytes(first, second, iter([TEXT[:700], TEXT[700:]]))
    assert comparison is not None
    size = len(TEXT.encode())
    assert comparison.per == "byte"
    assert comparison.nll == pytest.approx(second.total.nll - first.total.nll)
    assert comparison.mean == pytest.approx((second.total.nll - first.total.nll) / size)
    assert comparison.interval is None or comparison.interval[0] < comparison.mean
    assert second.total.weight == size
    assert comparison.kl_divergence is None


def test_nothing_to_compare(tiny_gpt2: Path) -> None:
    module = module_at(tiny_gpt2)
    first, second = (scorer(tiny_gpt2, Likelihood(over(module))) for _ in range(2))
    assert compare_by_bytes(first, second, []) is None

"""Log-probabilities against transformers' own logits, window by window."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from kernel_levels import skip_without

import llmcli
from llmcli.engine.decoder import ScoringDecoder
from llmcli.engine.row_stats import row_stats
from llmcli.engine.transformers_decoder import TransformersDecoder
from llmcli.errors import NumericalError
from llmcli.scoring.likelihood import Likelihood
from llmcli.scoring.windows import Window

WINDOWS = [
    Window([0, 5, 7, 300, 21, 8, 9], 1, 0),
    Window(list(range(1, 66)), 33, 32),
    Window([3, 4], 1, 0),
    Window([9] * 30, 20, 3),
    Window([399, 398, 397], 2, 0),
    Window(list(range(100, 165)), 1, 0),
    Window(list(range(200, 240)), 5, 0),
]


def module_at(folder: Path) -> Any:
    library: Any = transformers
    return library.AutoModelForCausalLM.from_pretrained(str(folder)).eval()


def expected(module: Any, window: Window) -> torch.Tensor:
    """All log-probabilities after the scored positions, by a plain forward pass."""
    with torch.no_grad():
        logits = module(torch.tensor([list(window.tokens[:-1])])).logits[0]
    return torch.log_softmax(logits.double(), 1)[window.first - 1 :]


def chosen(module: Any, window: Window) -> list[float]:
    targets = torch.tensor(list(window.tokens[window.first :]))[:, None]
    found: list[float] = expected(module, window).gather(1, targets)[:, 0].tolist()
    return found


FOLDERS = ["tiny_gpt2", "tiny_llama", "tiny_neox"]


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def over(module: Any) -> ScoringDecoder:
    return TransformersDecoder(module, n_positions=64)


@pytest.fixture(params=["its own", "transformers"])
def decoder(request: pytest.FixtureRequest, folder: Path) -> ScoringDecoder:
    if request.param == "transformers":
        return over(module_at(folder))
    return llmcli.load(str(folder)).decoder()


@pytest.mark.parametrize("batch_size", [None, 1, 2, 7])
def test_logprobs_are_transformers_whatever_the_batch(
    folder: Path, decoder: ScoringDecoder, batch_size: int | None
) -> None:
    module = module_at(folder)
    results = list(Likelihood(decoder, batch_size=batch_size).score(enumerate(WINDOWS)))
    assert [(key, window) for key, window, _ in results] == list(enumerate(WINDOWS))
    for _, window, scores in results:
        assert scores.logprobs == pytest.approx(chosen(module, window), rel=1e-5, abs=1e-5)


def test_ranks_entropies_and_alternatives(folder: Path, decoder: ScoringDecoder) -> None:
    module = module_at(folder)
    for _, window, scores in Likelihood(decoder, top=3).score(enumerate(WINDOWS)):
        distribution = expected(module, window)
        targets = list(window.tokens[window.first :])
        own = distribution[range(len(targets)), targets]
        assert scores.logprobs == pytest.approx(own.tolist(), rel=1e-5, abs=1e-5)
        ranks = (distribution > own[:, None] + 1e-6).sum(1) + 1
        assert list(scores.ranks) == ranks.tolist()
        entropy = -(distribution.exp() * distribution).sum(1)
        assert list(scores.entropies) == pytest.approx(entropy.tolist(), rel=1e-5)
        best = distribution.topk(3, 1)
        for row, top in enumerate(scores.top):
            assert [token for token, _ in top] == best.indices[row].tolist()
            assert [p for _, p in top] == pytest.approx(best.values[row].tolist(), abs=1e-5)


def test_windows_in_pieces(folder: Path, decoder: ScoringDecoder, monkeypatch: Any) -> None:
    """States by the piece, as where they are the logits of a large vocabulary."""
    monkeypatch.setattr("llmcli.scoring.states._STATES", 1)
    monkeypatch.setattr("llmcli.scoring.states._BLOCK", 8)
    module = module_at(folder)
    for _, window, scores in Likelihood(decoder, batch_size=3).score(enumerate(WINDOWS)):
        assert scores.logprobs == pytest.approx(chosen(module, window), rel=1e-5, abs=1e-5)


PREFIX = list(range(100, 130))


class Counting:
    """A decoder that counts the tokens it reads."""

    def __init__(self, decoder: ScoringDecoder) -> None:
        self._decoder = decoder
        self.read = 0
        self.held = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def open(self) -> int:
        self.held += 1
        return self._decoder.open()

    def close(self, slot: int) -> None:
        self.held -= 1
        self._decoder.close(slot)

    def hidden(self, texts: Any, **settings: Any) -> Any:
        self.read += sum(len(ids) for _, ids in texts)
        return self._decoder.hidden(texts, **settings)


@pytest.mark.parametrize("batch_size", [None, 1, 2])
def test_what_windows_have_in_common_is_read_once(
    folder: Path, decoder: ScoringDecoder, batch_size: int | None
) -> None:
    tails = [[3, 4], [5], [3, 6, 7, 8], [200], [9, 9], [4, 1], [2, 2]]
    windows = [Window([*PREFIX, *tail], len(PREFIX), 0) for tail in tails]
    # Then others, which begin alike for a while, and one that shares nothing.
    later = [Window([*PREFIX[:20], 7, *tail], 21, 0) for tail in tails]
    counting: Any = Counting(decoder)
    asked = [*windows, *later, Window([1, 2, 3], 1, 0)]
    module = module_at(folder)
    found = list(Likelihood(counting, batch_size=batch_size).score(enumerate(asked)))
    for _, window, scores in found:
        assert scores.logprobs == pytest.approx(chosen(module, window), rel=1e-5, abs=1e-5)
    assert counting.held == 0

    counting.read = 0
    list(Likelihood(counting, batch_size=batch_size).score(enumerate(windows)))
    # The last token of the prompt is each choice's own: its state predicts the choice.
    assert counting.read == len(PREFIX) - 1 + sum(len(tail) for tail in tails)


@given(
    rows=st.lists(
        st.lists(
            st.one_of(st.floats(-80, 80, width=32), st.just(-math.inf)), min_size=5, max_size=5
        ).filter(lambda row: max(row) > -math.inf),
        min_size=1,
        max_size=4,
    ),
    target=st.integers(0, 4),
)
def test_numbers_of_a_row(rows: list[list[float]], target: int) -> None:
    found = row_stats(np.array(rows, np.float32), [target] * len(rows))
    exact = torch.tensor(rows, dtype=torch.float64)
    logprobs = torch.log_softmax(exact, 1)
    entropies = torch.special.entr(logprobs.exp()).sum(1)
    assert found["log_sum_exp"] == pytest.approx(torch.logsumexp(exact, 1).numpy(), rel=1e-6)
    assert found["entropy"] == pytest.approx(entropies.numpy(), abs=1e-5)
    assert found["target"].tolist() == exact[:, target].tolist()
    assert found["argmax"].tolist() == exact.argmax(1).tolist()
    assert found["largest"].tolist() == exact.max(1).values.tolist()
    assert found["greater"].tolist() == (exact > exact[:, [target]]).sum(1).tolist()
    before = exact[:, :target] == exact[:, [target]]
    assert found["equal_before"].tolist() == before.sum(1).tolist()


def test_groups_that_begin_alike_one_after_the_other(tiny_gpt2: Path) -> None:
    """Beginnings that become shorter, longer again and others, in one session."""
    decoder = llmcli.load(str(tiny_gpt2), threads=1).decoder()
    likelihood = Likelihood(decoder)
    ids = list(range(20, 60))
    begins = [ids[:30], ids[:20], ids[:30], [*ids[:25], 7, 8, 9, 10], ids[:28], ids[:9]]
    groups = [
        [Window([*begin, 60 + label, 70, 71 + label], len(begin), 0) for label in range(3)]
        for begin in begins
    ]
    with likelihood.session() as score:
        found = [each.logprobs for group in groups for each in score(group)]
    alone = [each for group in groups for each in group]
    wanted = [next(iter(likelihood.score([(0, window)])))[2].logprobs for window in alone]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_a_row_without_a_target() -> None:
    found = row_stats(np.array([[1, 2]], np.float32), [-1])
    assert found["target"].tolist() == [0]


@pytest.mark.parametrize("precision", ["bfloat16", "int8", "int4"])
def test_coarser_products_stay_close(tiny_gpt2: Path, precision: Any) -> None:
    skip_without(precision)
    module = module_at(tiny_gpt2)
    likelihood = Likelihood(llmcli.load(str(tiny_gpt2), precision=precision).decoder())
    differences = [
        abs(found - wanted)
        for _, window, scores in likelihood.score(enumerate(WINDOWS))
        for found, wanted in zip(scores.logprobs, chosen(module, window), strict=True)
    ]
    mean = sum(differences) / len(differences)
    assert 0 < mean < {"bfloat16": 0.02, "int8": 0.1, "int4": 0.5}[precision]


@pytest.mark.parametrize("precision", ["float32", "int8", "int4"])
def test_scores_are_of_what_is_generated(tiny_gpt2: Path, precision: Any) -> None:
    """The arithmetic is the decoder's own: a token at a time gives the same figures."""
    skip_without(precision)
    decoder = llmcli.load(str(tiny_gpt2), precision=precision).decoder()
    window = WINDOWS[5]
    ((_, _, scores),) = Likelihood(decoder).score([(0, window)])
    slot = decoder.open()
    rows = [decoder.append([(slot, [token])])[0] for token in window.tokens[:-1]]
    found = row_stats(np.stack(rows), window.tokens[1:])
    wanted = (found["target"] - found["log_sum_exp"]).tolist()
    assert scores.logprobs == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("top", [None, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_numbers_name_the_token(tiny_gpt2: Path, value: float, top: int | None) -> None:
    module = module_at(tiny_gpt2)
    with torch.no_grad():
        module.transformer.wpe.weight[11] = value
    likelihood = Likelihood(over(module), top=top)
    with pytest.raises(NumericalError, match=r"token 31 of the text .* NaN"):
        list(
            likelihood.score([("a", Window(list(range(9)), 1, 0)), ("b", Window([5] * 30, 2, 21))])
        )

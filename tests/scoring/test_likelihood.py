"""Log-probabilities against transformers' own logits, window by window."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from kernel_levels import skip_without

from llmcli.errors import NumericalError, UnsupportedModel
from llmcli.scoring.likelihood import Likelihood
from llmcli.scoring.output_layer import Head, make_head
from llmcli.scoring.readers import HiddenReader, LogitsReader, Reader, make_reader
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


@pytest.fixture(params=["tiny_gpt2", "tiny_llama", "tiny_neox"])
def module(request: pytest.FixtureRequest) -> Any:
    return module_at(request.getfixturevalue(request.param))


@pytest.mark.parametrize("batch_size", [None, 1, 2, 7])
def test_logprobs_are_transformers_whatever_the_batch(module: Any, batch_size: int | None) -> None:
    likelihood = Likelihood(make_reader(module), batch_size=batch_size)
    results = list(likelihood.score(enumerate(WINDOWS)))
    assert [(key, window) for key, window, _ in results] == list(enumerate(WINDOWS))
    for _, window, scores in results:
        assert scores.logprobs == pytest.approx(chosen(module, window), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("kind", ["fast", "logits"])
def test_ranks_entropies_and_alternatives(module: Any, kind: str) -> None:
    reader: Reader = make_reader(module) if kind == "fast" else LogitsReader(module)
    likelihood = Likelihood(reader, top=3)
    for _, window, scores in likelihood.score(enumerate(WINDOWS)):
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


def test_any_model_by_slices_through_its_cache(module: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("llmcli.scoring.readers.ROWS_SLICE", 7)
    likelihood = Likelihood(LogitsReader(module), batch_size=3)
    for _, window, scores in likelihood.score(enumerate(WINDOWS)):
        assert scores.logprobs == pytest.approx(chosen(module, window), rel=1e-5, abs=1e-5)


def test_small_vocabulary_slices(module: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("llmcli.scoring.output_layer.VOCABULARY_SLICE", 33)
    for _, window, scores in Likelihood(make_reader(module)).score(enumerate(WINDOWS)):
        assert scores.logprobs == pytest.approx(chosen(module, window), rel=1e-5, abs=1e-5)


def test_forbidden_tokens_and_logits_far_apart(monkeypatch: Any) -> None:
    """Whole slices of -inf, and logits that would overflow float32 if they were exponentiated."""
    monkeypatch.setattr("llmcli.scoring.output_layer.VOCABULARY_SLICE", 50)
    torch.manual_seed(2)
    weight, hidden = torch.randn(300, 16) * 30, torch.randn(40, 16)
    bias = torch.zeros(300)
    bias[50:100] = bias[250:] = -torch.inf
    targets = torch.cat([torch.arange(100, 120), torch.arange(20)])
    exact = torch.log_softmax((hidden @ weight.t() + bias).double(), 1)[range(40), targets]
    found = Head(weight, bias).logprobs(hidden, targets)
    assert found.tolist() == pytest.approx(exact.tolist(), rel=1e-5, abs=1e-4)
    assert Head(weight, bias).logprobs(hidden[:1], torch.tensor([60])).item() == -math.inf


@pytest.mark.parametrize("mkl", [False, True])
def test_whichever_library_multiplies(tiny_gpt2: Path, monkeypatch: Any, mkl: bool) -> None:
    monkeypatch.setattr("llmcli.engine.kernels.mkl_is_ahead", lambda: mkl)
    module = module_at(tiny_gpt2)
    for _, window, scores in Likelihood(make_reader(module)).score(enumerate(WINDOWS)):
        assert scores.logprobs == pytest.approx(chosen(module, window), rel=1e-5, abs=1e-5)


def test_models_that_change_their_logits_are_read_by_their_own_logits() -> None:
    """Gemma 2 caps its logits and Cohere scales them: the head alone would be wrong."""
    common: dict[str, Any] = {
        "vocab_size": 400,
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    torch.manual_seed(3)
    capped = transformers.Gemma2Config(**common, head_dim=8, final_logit_softcapping=0.5)
    scaled = transformers.CohereConfig(**common, logit_scale=0.3)
    for config in (capped, scaled):
        library: Any = transformers
        module = library.AutoModelForCausalLM.from_config(config).eval()
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        reader = make_reader(module)
        assert isinstance(reader, LogitsReader)
        for _, window, scores in Likelihood(reader).score(enumerate(WINDOWS)):
            assert scores.logprobs == pytest.approx(chosen(module, window), rel=1e-4, abs=1e-4)


def test_other_models_use_the_sliced_head(tiny_llama: Path) -> None:
    assert isinstance(make_reader(module_at(tiny_llama)), HiddenReader)


def test_gpt2_settings_are_obeyed(tiny_gpt2: Path) -> None:
    config = transformers.GPT2Config.from_pretrained(str(tiny_gpt2))
    config.scale_attn_by_inverse_layer_idx = True
    config.activation_function = "relu"
    torch.manual_seed(5)
    library: Any = transformers
    module = library.GPT2LMHeadModel(config).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for _, window, scores in Likelihood(make_reader(module)).score(enumerate(WINDOWS)):
        assert scores.logprobs == pytest.approx(chosen(module, window), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "int8", "int4"])
def test_coarser_products_stay_close(tiny_gpt2: Path, precision: Any) -> None:
    skip_without(precision)
    module = module_at(tiny_gpt2)
    likelihood = Likelihood(make_reader(module, precision=precision))
    differences = [
        abs(found - wanted)
        for _, window, scores in likelihood.score(enumerate(WINDOWS))
        for found, wanted in zip(scores.logprobs, chosen(module, window), strict=True)
    ]
    mean = sum(differences) / len(differences)
    assert 0 < mean < {"bfloat16": 0.02, "int8": 0.1, "int4": 0.5}[precision]


@pytest.mark.parametrize("offset", [0.0, 40.0])
def test_logits_far_from_zero_are_brought_near_before_they_are_rounded(offset: float) -> None:
    skip_without("bfloat16")
    torch.manual_seed(1)
    weight, hidden = torch.randn(300, 32) * 0.3, torch.randn(20, 32)
    hidden[:, 0] = 1
    weight[:, 0] += offset
    exact = torch.log_softmax(hidden @ weight.t(), 1)
    head = make_head(weight, "bfloat16", hidden)
    targets = torch.arange(20)
    found = head.logprobs(hidden, targets)
    assert float((found - exact[targets, targets]).abs().mean()) < 0.02
    assert float((torch.log_softmax(head.logits(hidden), 1) - exact).abs().mean()) < 0.02


def test_int8_is_for_gpt2(tiny_llama: Path) -> None:
    with pytest.raises(UnsupportedModel, match="for GPT-2"):
        make_reader(module_at(tiny_llama), precision="int8")


@pytest.mark.parametrize("top", [None, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_numbers_name_the_token(tiny_gpt2: Path, value: float, top: int | None) -> None:
    module = module_at(tiny_gpt2)
    with torch.no_grad():
        module.transformer.wpe.weight[11] = value
    likelihood = Likelihood(make_reader(module), top=top)
    with pytest.raises(NumericalError, match=r"token 31 of the text .* NaN"):
        list(
            likelihood.score([("a", Window(list(range(9)), 1, 0)), ("b", Window([5] * 30, 2, 21))])
        )

"""The fast GPT-2 decoder against transformers' own forward."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmcli.engine import gpt2
from llmcli.engine.gpt2 import GPT2Decoder
from llmcli.engine.gpt2_weights import GPT2Shape, GPT2Weights, supports
from llmcli.engine.native.library import library


@pytest.fixture(scope="module", params=["native", "torch"], autouse=True)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Everything holds over the library of C functions and over torch's operators alone."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setenv("LLMCLI_NATIVE", "0")
        library.cache_clear()
        if (library() is not None) != (request.param == "native"):
            pytest.skip("the library was not built, or this processor lacks AVX-512")
        yield request.param
    library.cache_clear()


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=1e-4)


def _module(**changes: Any) -> Any:
    settings = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 64, "vocab_size": 401}
    config = transformers.GPT2Config(**{**settings, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module: Any = transformers.GPT2LMHeadModel(config)
        module.eval()
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        module.tie_weights()
    return module


@pytest.fixture(scope="module")
def module() -> Any:
    return _module()


@pytest.fixture(scope="module")
def weights(module: Any) -> GPT2Weights:
    return GPT2Weights.from_module(module)


@torch.inference_mode()
def _reference(module: Any, ids: list[int]) -> Tensor:
    """Logits [time, vocab] by transformers, without a cache."""
    logits: Tensor = module(torch.tensor([ids]), use_cache=False).logits[0]
    return logits


def _ids(count: int, *, seed: int = 0, vocab: int = 401) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab, (count,), generator=generator).tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation_function": "relu"},
        {"activation_function": "gelu", "n_inner": 48},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
        {"tie_word_embeddings": False},
        {"vocab_size": 400, "n_head": 1, "layer_norm_epsilon": 1e-3},
    ],
)
def test_every_position_equals_transformers(changes: dict[str, Any]) -> None:
    module = _module(**changes)
    ids = _ids(20, vocab=400)
    expected = _reference(module, ids)
    decoder = GPT2Decoder(GPT2Weights.from_module(module))
    logits = [decoder.prefill([ids[:7]])]
    logits += [decoder.step([token]) for token in ids[7:12]]
    logits += [decoder.extend([ids[12:]])[0]]
    assert_close(torch.cat(logits), expected[6:])
    assert decoder.lengths == (20,)


def test_the_module_shares_the_weights_and_computes_the_same() -> None:
    module = _module()
    ids = _ids(9)
    before = _reference(module, ids)
    weights = GPT2Weights.from_module(module)
    assert_close(_reference(module, ids), before)
    assert weights.wte.data_ptr() == module.lm_head.weight.data_ptr()
    with torch.no_grad():
        module.transformer.h[1].mlp.c_fc.weight.mul_(2)
    doubled = GPT2Decoder(weights).prefill([ids])
    assert_close(doubled[0], _reference(module, ids)[-1])


def test_a_prompt_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    monkeypatch.setattr(gpt2, "PREFILL_TOKENS", 8)
    ids = _ids(61)
    expected = _reference(module, ids)
    decoder = GPT2Decoder(GPT2Weights.from_module(module))
    assert_close(decoder.prefill([ids])[0], expected[-1])
    decoder.prefill([ids[:5]])
    assert_close(decoder.extend([ids[5:]])[0], expected[5:])


def test_the_cache_grows_to_the_whole_context(
    monkeypatch: pytest.MonkeyPatch, module: Any, weights: GPT2Weights
) -> None:
    monkeypatch.setattr(gpt2, "CACHE_STEP", 8)
    ids = _ids(64)
    decoder = GPT2Decoder(weights)
    logits = [decoder.prefill([ids[:7]]), *(decoder.step([token]) for token in ids[7:])]
    assert_close(torch.cat(logits), _reference(module, ids)[6:])


def test_rows_of_different_lengths(module: Any, weights: GPT2Weights) -> None:
    rows = [_ids(count, seed=count) for count in (14, 9, 20)]
    prompts = [rows[0][:4], rows[1][:1], rows[2][:11]]
    decoder = GPT2Decoder(weights)
    for row, logits in enumerate(decoder.prefill(prompts)):
        expected = _reference(module, prompts[row])
        assert_close(logits, expected[-1])
    for step in range(5):
        tokens = [row[len(prompt) + step] for row, prompt in zip(rows, prompts, strict=True)]
        stepped = decoder.step(tokens)
    extended = decoder.extend(
        [row[len(p) + 5 : len(p) + 8] for row, p in zip(rows, prompts, strict=True)]
    )
    assert decoder.lengths == (12, 9, 19)
    for row, ids in enumerate(rows):
        end = len(prompts[row]) + 8
        expected = _reference(module, ids[:end])
        assert_close(stepped[row], expected[end - 4])
        assert_close(extended[row], expected[-3:])


def test_prefill_does_not_depend_on_the_neighbours(weights: GPT2Weights) -> None:
    alone = GPT2Decoder(weights).prefill([_ids(5)])
    among = GPT2Decoder(weights)
    among.prefill([_ids(9, seed=1), _ids(5), _ids(2, seed=2)])
    cache = GPT2Decoder(weights)
    cache.prefill([_ids(5)])
    assert torch.equal(among._cache[:, :, 1, :, 4:9], cache._cache[:, :, 0, :, :5])
    torch.testing.assert_close(among.prefill([_ids(5)]), alone, rtol=0.0, atol=0.0)


# A step of a random walk: what to do, and numbers that say how.
_ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["step", "extend", "rollback", "select"]),
        st.lists(st.integers(0, 1000), min_size=4, max_size=4),
    ),
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=3), actions=_ACTIONS)
def test_any_walk_equals_reading_afresh(
    module: Any,
    weights: GPT2Weights,
    lengths: list[int],
    actions: list[tuple[str, list[int]]],
) -> None:
    rows = [_ids(length, seed=length) for length in lengths]
    decoder = GPT2Decoder(weights)
    logits = decoder.prefill(rows)
    for action, numbers in actions:
        if action == "select":
            chosen = [number % len(rows) for number in numbers[: 1 + numbers[3] % 3]]
            decoder.select(chosen)
            rows = [list(rows[row]) for row in chosen]
            continue
        if action == "rollback":
            keep = [1 + n % len(ids) for n, ids in zip(numbers, rows, strict=False)]
            decoder.rollback(keep)
            rows = [ids[:length] for ids, length in zip(rows, keep, strict=True)]
            continue
        time = 1 if action == "step" else 1 + numbers[0] % 4
        if max(map(len, rows)) + time > 64:
            continue
        new = [_ids(time, seed=number + i) for i, number in enumerate(numbers[: len(rows)])]
        rows = [ids + more for ids, more in zip(rows, new, strict=True)]
        logits = (
            decoder.step([t for (t,) in new]) if action == "step" else decoder.extend(new)[:, -1]
        )
        for row, ids in enumerate(rows):
            assert_close(logits[row], _reference(module, ids)[-1])
    assert decoder.lengths == tuple(map(len, rows))


def test_no_rows() -> None:
    decoder = GPT2Decoder(GPT2Weights.from_module(_module()))
    assert decoder.lengths == ()
    decoder.prefill([[1, 2]])
    decoder.select([])
    assert decoder.lengths == ()


def test_supports() -> None:
    assert supports({"model_type": "gpt2"})
    assert not supports({"model_type": "llama"})
    assert not supports({"model_type": "gpt2", "activation_function": "mish"})
    assert not supports({"model_type": "gpt2", "add_cross_attention": True})


def test_shape_defaults_are_those_of_transformers() -> None:
    ours = GPT2Shape.from_config({})
    theirs = GPT2Shape.from_config(transformers.GPT2Config().to_dict())
    assert ours == theirs


def test_a_saved_model(tiny_gpt2: Path) -> None:
    loaded: Any = transformers.GPT2LMHeadModel.from_pretrained(tiny_gpt2)
    ids = _ids(12, vocab=loaded.config.vocab_size)
    expected = _reference(loaded.eval(), ids)
    logits = GPT2Decoder(GPT2Weights.from_module(loaded)).prefill([ids])
    assert_close(logits[0], expected[-1])

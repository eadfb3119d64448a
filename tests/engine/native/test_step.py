"""Whole steps of the C library in every precision, against transformers with the same weights."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
import transformers
from native_units import units  # noqa: F401  (autouse)
from torch import Tensor

from llmcli.engine import gpt2
from llmcli.engine.gpt2 import GPT2Decoder
from llmcli.engine.gpt2_weights import GPT2Weights
from llmcli.engine.kernels import Precision
from llmcli.engine.native.library import FEW_ROWS, library
from llmcli.engine.native.step import Step

pytestmark = pytest.mark.skipif(
    library() is None, reason="the library was not built, or this processor lacks AVX-512"
)


# Largest difference of logits that are about 5 large.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05, "int8": 0.1}
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
LENGTH = 110


def _module(n_embd: int = 48, n_head: int = 4, **changes: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = transformers.GPT2Config(
            n_layer=2, n_embd=n_embd, n_head=n_head, n_positions=128, vocab_size=401, **changes
        )
        module: Any = transformers.GPT2LMHeadModel(config)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.15)
        module.tie_weights()
        return module.eval()


def _ids(count: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(401, (count,), generator=generator).tolist()


@torch.inference_mode()
def _reference(module: Any, ids: list[int]) -> Tensor:
    logits: Tensor = module(torch.tensor([ids]), use_cache=False).logits[0]
    return logits


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_embd": 21, "n_head": 7},  # heads of 3
        {"n_embd": 160, "n_head": 2},  # heads of 80: more than fit one round of registers
        {"activation_function": "relu", "n_inner": 50},
        {"tie_word_embeddings": False, "scale_attn_by_inverse_layer_idx": True},
    ],
)
def test_every_way_to_read(precision: Precision, changes: dict[str, Any]) -> None:
    module = _module(**changes)
    ids = _ids(LENGTH)
    expected = _reference(module, ids)
    decoder = GPT2Decoder(GPT2Weights.from_module(module, precision, decoding=True))
    assert decoder.kernels.startswith("own kernels")

    def check(actual: Tensor, wanted: Tensor) -> None:
        torch.testing.assert_close(actual, wanted, rtol=0.0, atol=TOLERANCE[precision])

    check(decoder.prefill([ids[: FEW_ROWS - 1]]), expected[FEW_ROWS - 2 : FEW_ROWS - 1])
    check(decoder.prefill([ids[:60]]), expected[59:60])
    check(decoder.step([ids[60]]), expected[60:61])
    check(decoder.extend([ids[61:63]])[0], expected[61:63])
    check(decoder.extend([ids[63:LENGTH]])[0], expected[63:])
    check(decoder.prefill([ids[:9], ids[:70]]), expected[[8, 69]])
    check(decoder.step([ids[9], ids[70]]), expected[[9, 70]])


def test_a_long_prompt_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpt2, "PREFILL_TOKENS", 45)
    module, ids = _module(), _ids(LENGTH)
    expected = _reference(module, ids)[-1:]
    decoder = GPT2Decoder(GPT2Weights.from_module(module, "bfloat16", decoding=True))
    torch.testing.assert_close(decoder.prefill([ids]), expected, rtol=0.0, atol=0.05)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bits_depend_on_neither_threads_nor_company(precision: Precision) -> None:
    weights = GPT2Weights.from_module(_module(), precision, decoding=True)
    ids, others = _ids(40), _ids(40, seed=1)
    threads = torch.get_num_threads()

    def few(decoder: GPT2Decoder) -> Tensor:
        return torch.cat([decoder.prefill([ids[:20]]), *(decoder.step([t]) for t in ids[20:30])])

    try:
        torch.set_num_threads(1)
        alone = few(GPT2Decoder(weights))
        long = GPT2Decoder(weights).prefill([ids])
        for count in (2, 3, 7):
            torch.set_num_threads(count)
            assert torch.equal(few(GPT2Decoder(weights)), alone)
            if precision != "float32":  # many float32 rows are torch's
                assert torch.equal(GPT2Decoder(weights).prefill([ids]), long)
    finally:
        torch.set_num_threads(threads)
    decoder = GPT2Decoder(weights)
    decoder.prefill([others[:7], ids[:20], others[:31]])
    stepped = [decoder.step([others[i], ids[i], ids[i + 3]])[1:2] for i in range(20, 30)]
    assert torch.equal(torch.cat(stepped), alone[1:])
    decoder.rollback([7, 20, 31])
    extended = decoder.extend([others[20:30], ids[20:30], others[:10]])[1]
    assert torch.equal(extended, alone[1:])


@pytest.mark.parametrize("damaged", ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"])
@pytest.mark.parametrize("length", [5, 50])
def test_a_damaged_weight_is_not_smoothed_over(damaged: str, length: int) -> None:
    module = _module()
    with torch.no_grad():
        # A key's dimension, in c_attn: nothing but the scores depends on it.
        dict(module.named_parameters())[f"transformer.h.0.{damaged}.weight"][3, 47] = torch.nan
    weights = GPT2Weights.from_module(module, "bfloat16", decoding=True)
    logits = GPT2Decoder(weights).prefill([_ids(length)])
    assert logits.isnan().any()
    with torch.no_grad():
        dict(module.named_parameters())["transformer.h.0.attn.c_attn.bias"][60] = torch.nan
    weights = GPT2Weights.from_module(module, "bfloat16", decoding=True)
    assert GPT2Decoder(weights).prefill([_ids(length)]).isnan().any()


def test_weights_that_it_cannot_take() -> None:
    packed_for_many_rows = GPT2Weights.from_module(_module(), "bfloat16")
    assert Step.over(packed_for_many_rows) is None
    decoder = GPT2Decoder(packed_for_many_rows)
    assert decoder.kernels == "torch's operators"
    assert decoder.prefill([_ids(5)]).isfinite().all()

"""Every family against transformers, at every position; what is not known is refused."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import plain_transformer
import pytest
import torch
from tiny_families import TINY, tiny

from llmcli.engine import families
from llmcli.engine.blueprint import Blueprint
from llmcli.engine.families import Refusal

TOKENS = [int(each) for each in np.random.default_rng(1).integers(3, 97, 40)]


@cache
def model(name: str) -> Any:
    return tiny(name)


def described(module: Any) -> tuple[Blueprint, dict[str, Any]]:
    blueprint, names = families.describe(module.config.to_dict(), type(module).__name__)
    return blueprint, dict(families.by_role(blueprint, names, module.state_dict()))


def reference(module: Any, tokens: list[int]) -> Any:
    with torch.no_grad():
        return module(torch.tensor([tokens])).logits[0].numpy()


@pytest.mark.parametrize("name", TINY)
def test_a_blueprint_says_what_transformers_computes(name: str) -> None:
    module = model(name)
    blueprint, weights = described(module)
    theirs = reference(module, TOKENS)
    assert theirs.std() > 0.1  # there is something to compare
    ours = plain_transformer.logits(blueprint, weights, TOKENS)
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max(), rtol=0)


@pytest.mark.parametrize("name", TINY)
def test_a_blueprint_survives_json(name: str) -> None:
    import json

    blueprint, _ = families.describe(model(name).config.to_dict())
    assert Blueprint.from_json(json.loads(json.dumps(blueprint.to_json()))) == blueprint


def test_every_family_is_tried() -> None:
    assert {model(name).config.model_type for name in TINY} == set(families.FAMILIES)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("gpt2", {"activation_function": "mish"}, "activation_function is 'mish'"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True"),
        ("gpt2", {"n_embd": "wide"}, "n_embd is 'wide'"),
        ("gpt2", {"attention_sinks": 4}, "unknown here: attention_sinks"),
        ("gpt2", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("llama", {"pretraining_tp": 2}, "pretraining_tp is 2"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_parameters"),
        ("llama", {"rope_parameters": {"rope_type": "default"}}, "rope_parameters"),
        (
            "llama",
            {"rope_parameters": {"rope_theta": 1e4, "mrope_section": [1]}},
            "rope_parameters",
        ),
        ("llama", {"num_key_value_heads": 3}, "make no transformer"),
        ("phi3-longrope", {"max_position_embeddings": 128}, "rope_parameters"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ("gemma3", {"layer_types": ["chunked_attention"] * 3}, "layer_types"),
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before is False"),
        ("opt", {"word_embed_proj_dim": 16}, "word_embed_proj_dim is 16"),
        ("bloom", {"slow_but_exact": True}, "slow_but_exact is True"),
        ("falcon", {"alibi": True}, "alibi is True"),
        ("gptj", {"rotary_dim": 3}, "rotary_dim is 3"),
        ("gpt_neo", {"attention_layers": ["global"]}, "attention_layers"),
    ],
)
def test_what_a_family_does_not_know_is_refused(
    name: str, changes: dict[str, Any], reason: str
) -> None:
    config = {**model(name).config.to_dict(), **changes}
    with pytest.raises(Refusal, match=reason):
        families.describe(config)


def test_other_models_are_refused() -> None:
    with pytest.raises(Refusal, match="type 'mamba'"):
        families.describe({"model_type": "mamba"})
    with pytest.raises(Refusal, match="MyGPT2 is not the class"):
        families.describe(model("gpt2").config.to_dict(), "MyGPT2")


def test_weights_that_do_not_fit_are_refused() -> None:
    module = model("llama")
    blueprint, names = families.describe(module.config.to_dict())
    state = module.state_dict()
    for changed, reason in (
        (
            {**state, "model.layers.0.self_attn.sinks": torch.ones(4)},
            "nothing here uses the tensor",
        ),
        ({k: v for k, v in state.items() if k != "model.norm.weight"}, "no tensor model.norm"),
        ({**state, "model.norm.weight": torch.ones(5)}, r"final_norm.weight has shape \[5\]"),
    ):
        with pytest.raises(Refusal, match=reason):
            dict(families.by_role(blueprint, names, changed))

"""What continues texts, and how much context it has, by config.json alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_architectures import architectures, tiny_module

import llmcli
from llmcli.errors import UnsupportedModel
from llmcli.models import kinds
from llmcli.models.kinds import check_kind, usable_positions


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "bert"}, "masked language model"),
        ({"model_type": "roberta", "is_decoder": False}, "masked language model"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "encoder with a decoder"),
        ({"model_type": "xlnet"}, "permuted"),
        ({"model_type": "xlm"}, "not causal"),
    ],
)
def test_what_continues_no_text_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedModel, match=words) as caught:
        check_kind(config, name="it")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gpt2"},
        {"model_type": "bert", "is_decoder": True},
        {"model_type": "xlm", "causal": True},
        {"model_type": "bart", "is_encoder_decoder": False, "is_decoder": True},
    ],
)
def test_what_continues_texts_is_taken(config: dict[str, Any]) -> None:
    check_kind(config, name="it")


def test_every_masked_architecture_is_known() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    both = set(architectures()) & set(MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    named = kinds._MASKED | kinds._OTHERS.keys() | {"xlm"}
    assert both - named == {"bart", "mbart", "mvp"}  # encoders with decoders


def test_a_folder_of_a_masked_model_is_refused_before_it_is_loaded(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_gpt2, tmp_path / "masked")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "roberta"}))
    model = llmcli.load(str(folder))
    with pytest.raises(UnsupportedModel, match="masked language model"):
        model.generate("a")
    assert "load weights" not in model.timings


@pytest.mark.parametrize("model_type", ["roberta", "camembert", "xlm-roberta-xl", "gpt2"])
def test_the_whole_usable_context_can_be_read_and_no_more(model_type: str) -> None:
    module = tiny_module(model_type, max_position_embeddings=24)
    usable = usable_positions(module.config.to_dict(), 24)
    with torch.inference_mode():
        module(torch.tensor([[5] * usable]))
        with pytest.raises((IndexError, RuntimeError)):
            module(torch.tensor([[5] * (usable + 1)]))


def test_beyond_an_index_s_choice_nothing_is_read() -> None:
    assert usable_positions({"model_type": "deepseek_v32", "index_topk": 2048}, 163840) == 2048

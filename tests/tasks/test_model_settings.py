"""generation_config.json: what it sets is honoured as transformers does, or named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from llmcli.api import load
from llmcli.errors import CorruptModel, InvalidInput
from llmcli.models.language_model import LanguageModel
from llmcli.tasks.generate import continue_text
from llmcli.tasks.prompts import sampling_params

PROMPT = "Once upon a time"


@pytest.fixture
def folder(tiny_gpt2: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_gpt2, tmp_path / "model"))


def with_config(folder: Path, config: dict[str, Any]) -> tuple[LanguageModel, list[str]]:
    """The model with this generation_config.json, and the notices that it gives."""
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 0, **config}))
    notices: list[str] = []
    return load(str(folder), notify=notices.append), notices


def ours(model: LanguageModel, **given: Any) -> list[int]:
    params = sampling_params(model, {"seed": 1, **given})
    events = continue_text(model, PROMPT, params).events
    return [event.token_id for event in events if event.token_id is not None]


def theirs(folder: Path, **given: Any) -> list[int]:
    auto: Any = transformers.AutoModelForCausalLM
    module = auto.from_pretrained(folder)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.inference_mode():
        found = module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            pad_token_id=0,
            tokenizer=tokenizer,
            **given,
        )
    row: list[int] = found[0, ids.shape[1] :].tolist()
    return row


def test_the_settings_of_a_model_are_transformers(folder: Path) -> None:
    """One after the other, each against transformers' own generate and the text without it."""
    model, _ = with_config(folder, {"do_sample": False})
    plain = ours(model, max_new_tokens=12)
    assert plain == theirs(folder, max_new_tokens=12)
    first, second, third = plain[:3]
    prompt = model.tokenizer.ids(PROMPT)
    stop = model.token_bytes(plain[4]).decode("utf-8", "replace")
    settings: list[dict[str, Any]] = [
        {"suppress_tokens": [first, third]},
        {"begin_suppress_tokens": [first]},
        {"bad_words_ids": [[first]]},
        {"bad_words_ids": [[first, second], [prompt[-1], first]]},
        {"sequence_bias": [[[first], -50.0]]},
        {"sequence_bias": [[[first, second], -50.0], [[second, 9], 50.0]]},
        {"forced_eos_token_id": 0},
        {"forced_eos_token_id": [7, 0]},
        {"eos_token_id": [0, third]},
        {"eos_token_id": third, "min_length": len(prompt) + 6},
        {"eos_token_id": third, "min_new_tokens": 6},
        {"eos_token_id": 9, "exponential_decay_length_penalty": [2, 1.9]},
        {"no_repeat_ngram_size": 1},
        {"repetition_penalty": 1.8},
        {"num_beams": 3},
        {"num_beams": 3, "length_penalty": -2.0, "early_stopping": True, "eos_token_id": third},
        {"num_beams": 2, "suppress_tokens": [first], "bad_words_ids": [[second, third]]},
        {"stop_strings": [stop]},
    ]
    for setting in settings:
        model, notices = with_config(folder, {"do_sample": False, **setting})
        found, expected = ours(model, max_new_tokens=12), theirs(folder, max_new_tokens=12)
        assert found == expected, setting
        assert notices == [], setting
        if setting != {"forced_eos_token_id": [7, 0]} and "eos_token_id" not in setting:
            assert found != plain, f"{setting} changes nothing, so nothing is shown"


def test_a_forced_first_token(folder: Path) -> None:
    """Forced after a prompt of one token, as transformers does."""
    model, _ = with_config(folder, {"do_sample": False, "forced_bos_token_id": 9})
    params = sampling_params(model, {"max_new_tokens": 3})
    (single,) = model.tokenizer.ids("t")
    assert single
    events = list(continue_text(model, "t", params).events)
    assert events[0].token_id == 9
    assert events[1].token_id != 9


@pytest.mark.parametrize(
    ("config", "given", "count"),
    [
        ({"max_new_tokens": 2}, {}, 2),
        ({"max_new_tokens": 2}, {"max_new_tokens": 4}, 4),
        ({"max_new_tokens": 2, "max_length": 50}, {}, 2),
        ({"max_length": 20}, {}, None),
        ({"max_length": 20}, {"max_new_tokens": 4}, 4),
        ({"max_length": 1}, {"max_new_tokens": 4}, 4),
    ],
)
def test_lengths(
    folder: Path, config: dict[str, int], given: dict[str, int], count: int | None
) -> None:
    model, _ = with_config(folder, {"do_sample": False, "eos_token_id": None, **config})
    found = ours(model, ignore_eos=True, **given)
    assert len(found) == (20 - len(model.tokenizer.ids(PROMPT)) if count is None else count)


def test_a_prompt_beyond_the_length(folder: Path) -> None:
    model, _ = with_config(folder, {"max_length": 2})
    with pytest.raises(InvalidInput, match=r"ends a text at 2 \(max_length\). Say .* with -n"):
        ours(model)


def test_stop_texts_of_the_call_take_the_place_of_the_models(folder: Path) -> None:
    model, _ = with_config(folder, {"stop_strings": "###"})
    assert sampling_params(model, {}).stop == ("###",)
    assert sampling_params(model, {"stop": ()}).stop == ("###",)
    assert sampling_params(model, {"stop": ("x",)}).stop == ("x",)


def test_banned_words_are_added_to_the_models(folder: Path) -> None:
    model, _ = with_config(folder, {"bad_words_ids": [[5, 6]]})
    params = sampling_params(model, {"bad_words_ids": ((7,),)})
    assert params.bad_words_ids == ((5, 6), (7,))


def test_what_is_not_there_is_named_once(folder: Path) -> None:
    config = {"guidance_scale": 1.5, "penalty_alpha": 0.6, "num_beam_groups": 1, "top_k": 5}
    model, notices = with_config(folder, config)
    for _ in range(2):
        sampling_params(model, {})
    assert notices == [
        "generation_config.json sets guidance_scale, penalty_alpha, which llmcli does not have: "
        "the text may differ from transformers'."
    ]


def test_tokens_without_a_row_are_left_out(folder: Path) -> None:
    config = {
        "suppress_tokens": [5, 99_999, -1],
        "bad_words_ids": [[6], [7, 99_999]],
        "eos_token_id": [0, 99_999],
    }
    model, notices = with_config(folder, config)
    params = sampling_params(model, {"min_new_tokens": 2, "max_new_tokens": 3})
    assert params.suppress_tokens == (5,)
    assert params.bad_words_ids == ((6,),)
    assert len(ours(model, min_new_tokens=2, max_new_tokens=3)) >= 2
    assert any("suppress_tokens" in each and "99999" in each for each in notices)


def test_beams_give_way_to_what_they_cannot_do(folder: Path) -> None:
    model, notices = with_config(folder, {"num_beams": 4})
    assert sampling_params(model, {}).num_beams == 4
    assert sampling_params(model, {}).temperature == 0
    assert notices == []
    params = sampling_params(model, {"logprobs": 2})
    assert params.num_beams == 1
    assert notices == [
        "num_beams of generation_config.json is left out: logprobs does not work with beam search."
    ]
    model, _ = with_config(folder, {"num_beams": 4, "do_sample": True, "temperature": 0.5})
    assert sampling_params(model, {}).temperature == 0.5


@pytest.mark.parametrize(
    "config",
    [
        {"top_h": 2},
        {"epsilon_cutoff": 1},
        {"sequence_bias": {"5": 1.0}},
        {"sequence_bias": [[[], 1.0]]},
        {"sequence_bias": [[[5], "x"]]},
        {"sequence_bias": [[[5], True]]},
        {"bad_words_ids": [[]]},
        {"exponential_decay_length_penalty": [2]},
        {"exponential_decay_length_penalty": [2, "x"]},
        {"stop_strings": [""]},
        {"max_length": 0},
        {"early_stopping": "soon"},
    ],
)
def test_values_that_cannot_be_meant_are_named(folder: Path, config: dict[str, Any]) -> None:
    with pytest.raises(CorruptModel, match=r"generation_config\.json"):
        sampling_params(with_config(folder, config)[0], {})

"""Architectures that read in ways of their own, against their forward over the whole text."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_architectures import architectures, tiny_module

from llmcli.engine.reading import Reading, Text, find_reading
from llmcli.errors import UnsupportedModel

_SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "faults" / "architectures.py"))
CLOSE: float = _SCRIPT["CLOSE"]
compare: Any = _SCRIPT["compare"]

CACHE = Reading("past_key_values", positions=True)
# One of each way that is known, as installed; tests/faults/architectures.py tries them all.
READINGS = {
    "bamba": CACHE,  # wrong from the second piece on without positions
    "bloom": Reading("past_key_values"),
    "deepseek_v4": Reading(),  # compresses what it keeps
    "falcon": CACHE,
    "gemma3_text": CACHE,
    "gpt_neo": CACHE,
    "gpt_neox": CACHE,
    "granitemoehybrid": CACHE,
    "jamba": Reading("past_key_values", positions=True, several=False),
    "lfm2": CACHE,
    "llama": CACHE,
    "llama4_text": CACHE,
    "mamba": Reading("cache_params", several=False),
    "mpt": Reading("past_key_values"),
    "openai-gpt": Reading(),
    "opt": CACHE,
    "recurrent_gemma": Reading(),
    "roberta": Reading("past_key_values"),  # its positions begin after the padding's
    "rwkv": Reading("state"),
}


@pytest.mark.parametrize("model_type", READINGS)
def test_a_text_read_in_pieces_is_the_text_read_whole(model_type: str) -> None:
    module = tiny_module(model_type)
    reading = find_reading(module, name=model_type, n_positions=1024)
    assert reading == READINGS[model_type]
    furthest, greedy = compare(module, reading, long=520)
    assert max(furthest.values()) < CLOSE, furthest
    # transformers' generate counts RoBERTa's positions from 0.
    assert greedy or model_type == "roberta"


@pytest.mark.parametrize("model_type", ["bert", "xlnet"])
def test_what_is_not_causal_is_refused(model_type: str) -> None:
    changes: dict[str, Any] = {"is_decoder": False} if model_type == "bert" else {}
    with pytest.raises(UnsupportedModel, match="not causal"):
        find_reading(tiny_module(model_type, **changes), name="it", n_positions=1024)


def test_what_cannot_be_run_is_refused_in_one_line() -> None:
    module = tiny_module("xmod", default_language=None)
    with pytest.raises(UnsupportedModel, match="cannot be read as a language model") as caught:
        find_reading(module, name="it", n_positions=1024)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model_type", ["gpt2", "mixtral", "gemma3_text"])
def test_what_rounding_does_is_no_disagreement(model_type: str) -> None:
    module = tiny_module(model_type).to(torch.bfloat16)
    assert find_reading(module, name="it", n_positions=64) == CACHE


@pytest.mark.parametrize("model_type", ["bamba", "jamba"])
def test_rounded_states_take_one_token_at_a_time(model_type: str) -> None:
    """A short text could not show whether they take several."""
    module = tiny_module(model_type).to(torch.bfloat16)
    reading = find_reading(module, name="it", n_positions=64)
    assert reading == Reading("past_key_values", positions=True, several=False)


@pytest.mark.parametrize("n_positions", [1, 2, 6, 10])
def test_a_short_context_is_enough_to_find_out(n_positions: int) -> None:
    module = tiny_module("gpt2", max_position_embeddings=n_positions)
    assert find_reading(module, name="it", n_positions=n_positions).cache == "past_key_values"


def test_a_cache_that_can_be_cut_is_cut() -> None:
    """Not read again: drafts on these models would gain nothing."""
    module = tiny_module("llama")
    text = Text(module, CACHE)
    text.append([5, 6, 7, 8])
    calls: list[int] = []
    module.register_forward_pre_hook(lambda _, args: calls.append(args[0].shape[1]))
    text.truncate(2)
    text.append([9])
    assert calls == [1]


def test_there_are_as_many_architectures_as_the_table_counts() -> None:
    from transformers import __version__

    table = (Path(__file__).parents[2] / "docs" / "models.md").read_text("utf-8")
    if f"transformers {__version__}" not in " ".join(table.split()):
        pytest.skip(f"docs/models.md is about another transformers than {__version__}")
    section = table.split("## Architectures", 1)[1].split("\n## ", 1)[0]
    table = section.split("<!-- architectures -->")[1].split("<!-- end of architectures -->")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")][1:]
    names = [name.strip() for row in rows for name in row.split(",")]
    assert sorted(names) == architectures()

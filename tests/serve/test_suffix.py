"""Filling in the middle, with tokenizers that have the tokens for it: served, and at the command
line."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from click.testing import CliRunner
from servers import chunks_of, in_this_process
from tokenizer_files import gpt2_style
from tokenizers import AddedToken
from transformers import GPT2Config, GPT2LMHeadModel

from llmcli.api import load
from llmcli.cli.main import cli
from llmcli.models.language_model import LanguageModel

PREFIX, SUFFIX = "Once upon", " little fox"
STARCODER = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>")
QWEN = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>")


@pytest.fixture(scope="module", params=[STARCODER, QWEN], ids=["starcoder", "qwen"])
def coder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with a random GPT-2 whose tokenizer has a family's marks; the marks' ids."""
    folder = tmp_path_factory.mktemp("coder")
    tokenizer = gpt2_style()
    tokenizer.add_special_tokens([AddedToken(each, special=True) for each in request.param])
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    shape: dict[str, Any] = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 64}
    shape |= {"bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(vocab_size=tokenizer.get_vocab_size(), **shape)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder, [tokenizer.token_to_id(each) for each in request.param]


def served(model: LanguageModel, *bodies: dict[str, Any]) -> list[httpx2.Response]:
    """The answers to completions."""

    async def run() -> list[httpx2.Response]:
        async with in_this_process(model) as (_, client):
            return [await client.post("/v1/completions", json=body) for body in bodies]

    return asyncio.run(run())


def test_a_gap_is_filled(coder: tuple[Path, list[int]], tmp_path: Path) -> None:
    """With the greedy text of transformers, by the server as by the command."""
    folder, (before, after, between, pad) = coder
    model = load(str(folder), threads=1)
    first, last = model.tokenizer.ids(PREFIX), model.tokenizer.ids(SUFFIX)
    ids = torch.tensor([[before, *first, after, *last, between]])
    made = model.module.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=12,
        eos_token_id=[0, before, after, between, pad],
        pad_token_id=0,
    )
    found = [each for each in made[0, ids.shape[1] :].tolist() if each not in coder[1]]
    text = model.tokenizer.decode_bytes(found).decode("utf-8", "replace")
    asked = {"suffix": SUFFIX, "max_tokens": 12, "temperature": 0}
    ends = {"logit_bias": {str(pad): 100}}
    whole, by_ids, stream, ended = served(
        model,
        {"prompt": PREFIX, **asked},
        {"prompt": first, **asked},
        {"prompt": PREFIX, **asked, "stream": True},
        {"prompt": PREFIX, **asked, **ends},
    )
    assert whole.json()["choices"][0]["text"] == text
    assert whole.json()["usage"]["prompt_tokens"] == ids.shape[1]
    assert by_ids.json()["choices"] == whole.json()["choices"]
    chunks = list(chunks_of(iter(stream.text.splitlines())))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == text
    [choice] = ended.json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("", "stop")

    file = tmp_path / "suffix"
    file.write_text(SUFFIX)
    command = ["generate", "-m", str(folder), "--suffix", str(file), "--greedy", "-n", "12"]
    told = CliRunner().invoke(cli, [*command, "--json", PREFIX])
    record = json.loads(told.stdout)
    assert (record["text"], record["prompt_tokens"]) == (text, ids.shape[1])
    told = CliRunner().invoke(cli, [*command, "--json", "--logit-bias", f"{pad}=100", PREFIX])
    record = json.loads(told.stdout)
    assert (record["text"], record["finish_reason"]) == ("", "eos")


def test_marks_in_a_text_are_text(coder: tuple[Path, list[int]]) -> None:
    """Nobody opens a gap from within a prompt; what does not go with a suffix is named."""
    folder, (before, *_) = coder
    model = load(str(folder), threads=1)
    mark = model.tokenizer.token_string(before)
    asked = {"suffix": SUFFIX, "max_tokens": 1, "temperature": 0}
    plain, spelt, echo, heal, unknown = served(
        model,
        {"prompt": PREFIX, **asked},
        {"prompt": PREFIX + mark, **asked},
        {"prompt": PREFIX, **asked, "echo": True},
        {"prompt": PREFIX, **asked, "heal": True},
        {"prompt": [9999], **asked},
    )
    tokens = [each.json()["usage"]["prompt_tokens"] for each in (plain, spelt)]
    assert tokens[1] - tokens[0] == len(model.tokenizer.ids(mark)) > 1
    for answer, param in ((echo, "echo"), (heal, "heal"), (unknown, "prompt")):
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param

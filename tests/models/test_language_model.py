"""What a loaded model says of itself."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import RunLlmcli
from safetensors.torch import load_file, save_file

from llmcli.api import load


@pytest.fixture
def padded_gpt2(tiny_gpt2: Path, tmp_path: Path) -> Path:
    """A model with 16 rows more than its tokenizer has entries."""
    folder = tmp_path / "padded"
    shutil.copytree(tiny_gpt2, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(key for key in weights if key.endswith("wte.weight"))
    size, width = weights[name].shape
    weights[name] = torch.cat([weights[name], torch.zeros(16, width)])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": size + 16}))
    return folder


def test_a_padded_embedding_has_tokens_without_text(padded_gpt2: Path) -> None:
    """Embeddings are often padded to a round size; such a token is no error when drawn."""
    model = load(str(padded_gpt2), device="cpu")
    size = model.tokenizer.vocab_size
    assert model.token_bytes(size + 3) == b""
    bias = ((size + 3, 1e4),)
    assert "".join(model.stream("Once", max_new_tokens=3, logit_bias=bias, seed=1)) == ""


def test_contexts_that_no_config_states_are_those_of_transformers() -> None:
    from transformers import CONFIG_MAPPING

    from llmcli.models.config import context_size
    from llmcli.models.language_model import DEFAULT_CONTEXTS

    for kind, size in DEFAULT_CONTEXTS.items():
        assert context_size(CONFIG_MAPPING[kind]().to_dict()) == size, kind


@pytest.mark.parametrize(
    ("files", "eos", "bos", "said"),
    [
        ({"config.json": {"eos_token_id": 10**6}}, (0,), 0, "10\\d* rows|100000"),
        ({"config.json": {"eos_token_id": [None, 5, -1]}}, (5,), 0, ""),
        ({"config.json": {"eos_token_id": -1, "bos_token_id": -1}}, (0,), 0, ""),
        ({"config.json": {"eos_token_id": None, "bos_token_id": 99_999}}, (0,), 0, ""),
        ({"generation_config.json": {"eos_token_id": [5, 99_999]}}, (5,), 0, "99999"),
        ({"generation_config.json": {"eos_token_id": 99_999}}, (0,), 0, "99999"),
        ({"generation_config.json": {"eos_token_id": []}}, (0,), 0, ""),
    ],
)
def test_ids_of_configs_that_have_no_row(
    tiny_gpt2: Path,
    tmp_path: Path,
    files: dict[str, dict[str, object]],
    eos: tuple[int, ...],
    bos: int,
    said: str,
) -> None:
    folder = Path(shutil.copytree(tiny_gpt2, tmp_path / "model"))
    for name, content in files.items():
        old = json.loads((folder / name).read_bytes()) if (folder / name).exists() else {}
        (folder / name).write_text(json.dumps({**old, **content}))
    if "generation_config.json" not in files:
        (folder / "generation_config.json").unlink(missing_ok=True)
    notices: list[str] = []
    model = load(str(folder), device="cpu", notify=notices.append)
    assert model.eos_ids == eos
    assert model.tokenizer.bos_id == bos
    assert bool(notices) == bool(said)
    assert not said or re.search(said, notices[0])


def test_score_shows_rows_that_only_pad_the_embedding(
    padded_gpt2: Path, run_llmcli: RunLlmcli
) -> None:
    text = "Once upon a time there was a fox."
    for options in (["--json", "--top-logprobs", "400"], ["--json"], []):
        done = run_llmcli("score", "--tokens", "-m", str(padded_gpt2), *options, text)
        assert done.returncode == 0, done.stderr
    html = run_llmcli(
        "score", "--html", "page.html", "--top-logprobs", "5", "-m", str(padded_gpt2), text
    )
    assert html.returncode == 0, html.stderr

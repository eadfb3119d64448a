"""What a loaded model says of itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from llmcli.models.loader import load


def test_a_padded_embedding_has_tokens_without_text(tiny_gpt2: Path, tmp_path: Path) -> None:
    """Embeddings are often padded to a round size; such a token is no error when drawn."""
    folder = tmp_path / "padded"
    shutil.copytree(tiny_gpt2, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(key for key in weights if key.endswith("wte.weight"))
    size, width = weights[name].shape
    weights[name] = torch.cat([weights[name], torch.zeros(16, width)])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": size + 16}))
    model = load(str(folder), device="cpu")
    assert model.token_bytes(size + 3) == b""
    bias = ((size + 3, 1e4),)
    assert "".join(model.generate("Once", max_new_tokens=3, logit_bias=bias, seed=1)) == ""

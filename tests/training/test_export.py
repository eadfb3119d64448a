from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

from llmcli.errors import StorageError
from llmcli.training.export import choose_precision, install, rounded, write_model
from llmcli.training.vocabulary import for_transformers, train_tokenizer


@pytest.fixture
def model(tiny_gpt2: Path) -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(tiny_gpt2)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_what_is_stored_is_what_was_measured(
    model: GPT2LMHeadModel, tmp_path: Path, precision: str
) -> None:
    before = {name: p.clone() for name, p in model.named_parameters()}
    with rounded(model, precision):
        inside = {name: p.clone() for name, p in model.named_parameters()}
    write_model(model, tmp_path / "m", precision=precision)
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path / "m", dtype=torch.float32)
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, inside[name]), name
    # The model in memory is as it was.
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.dtype == torch.float32
    assert loaded.lm_head.weight is loaded.transformer.wte.weight


def test_auto_takes_what_loses_least(model: GPT2LMHeadModel) -> None:
    exact = model.transformer.wte.weight.clone()

    def loss() -> float:
        return float((model.transformer.wte.weight - exact).abs().sum().detach())

    assert choose_precision(model, "auto", loss)[0] == "float16"
    with torch.no_grad():
        model.transformer.wte.weight[0, 0] = 1e6  # beyond float16
    exact = model.transformer.wte.weight.clone()
    assert choose_precision(model, "auto", loss)[0] == "bfloat16"
    assert choose_precision(model, "float32", loss) == ("float32", {"float32": 0.0})


@pytest.mark.parametrize("killed_at", range(4))
def test_a_kill_leaves_no_half_of_a_model(
    tmp_path: Path, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is cut off, there is the whole new model, or no config.json at all."""
    staged, output = tmp_path / "staged", tmp_path / "out"
    for folder, content in ((staged, "new"), (output, "old")):
        folder.mkdir()
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (folder / name).write_text(content)
    replace, calls = Path.replace, 0

    def cut_off(self: Path, target: Path) -> Path:
        nonlocal calls
        if calls == killed_at:
            raise KeyboardInterrupt
        calls += 1
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", cut_off)
    try:
        install(staged, output)
    except KeyboardInterrupt:
        assert not (output / "config.json").exists()
    else:
        assert killed_at == 3
        assert {path.read_text() for path in output.iterdir()} == {"new"}
        assert not staged.exists()


def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "staged").mkdir()
    (tmp_path / "staged" / "config.json").write_text("{}")

    def fail(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(StorageError, match="No space left on device"):
        install(tmp_path / "staged", tmp_path)


def test_the_tokenizer_knows_every_text(tmp_path: Path) -> None:
    backend = train_tokenizer(["the fox and the crow " * 50], vocab_size=270)
    for_transformers(backend, n_positions=64).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = " the fox; Łódź 🦊\n\ttabs "
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert loaded.eos_token == loaded.bos_token == "<|endoftext|>"
    assert loaded.model_max_length == 64
    assert backend.token_to_id("<|endoftext|>") == 0

"""Clean copies of every folder that repair claims to mend, against the original."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from model_folders import (
    both,
    cast,
    head_alone,
    head_beside,
    no_metadata,
    pair_of_files,
    pickled,
    prefixed,
    renamed,
    shard,
    tensors,
    value_head,
    with_tensor,
)
from safetensors.torch import load_file, save_file
from schemas import kind_of
from tiny_translators import bert

from llmcli.api import load
from llmcli.cli.main import cli
from llmcli.errors import CorruptModel, InvalidInput, UnsafeModel
from llmcli.models.check import check_model_folder
from llmcli.models.repair import repair

CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "compiled": (prefixed("_orig_mod."), "_orig_mod."),
    "parallel": (prefixed("module."), "module."),
    "both": (prefixed("module._orig_mod."), "module._orig_mod."),
    "tied twice": (tensors(head_beside), "tied ones once"),
    "tied alone": (tensors(head_alone), "tied ones once"),
    "mixed": (cast(torch.float16, "mlp"), "one type"),
    "double": (cast(torch.float64), "one type"),
    "masked": (with_tensor("transformer.h.0.attn.masked_bias", torch.tensor(-1e4)), "tables"),
    "old norms": (
        both(renamed(r"(ln_\w)\.weight", r"\1.gamma"), renamed(r"(ln_\w)\.bias", r"\1.beta")),
        "called beta bias; called gamma weight",
    ),
    "pickled": (pickled, "made safetensors"),
    "value head": (value_head, "v_head"),
    "shards": (shard, "joined 2"),
    "shards alone": (lambda folder: shard(folder, index=False), "joined 2"),
    "no metadata": (lambda folder: shard(folder, metadata=False), "joined 2"),
    "pair": (pair_of_files, "made tokenizer.json of merges.txt"),
    "nothing": (no_metadata, ""),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_copy_is_the_model(
    families: Callable[[str], Path],
    tmp_path: Path,
    name: str,
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    change, said = CHANGES[name]
    plain = families("gpt2")
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(plain, source)
    change(source)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    done = repair(source, target, allow_pickle=name == "pickled")
    assert said in "; ".join(done.changes)
    assert bool(done.changes) == bool(said)
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    check_model_folder(target)
    assert set(load_file(target / "model.safetensors")) == set(
        load_file(plain / "model.safetensors")
    )
    assert len({t.dtype for t in load_file(target / "model.safetensors").values()}) == 1
    of: Any = AutoModelForCausalLM.from_pretrained
    ids = torch.tensor([[1, 5, 9, 30]])
    with torch.inference_mode():
        logits = [of(str(each), dtype=torch.float32)(ids).logits for each in (plain, target)]
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-3)
    tokenizer: Any = AutoTokenizer.from_pretrained
    assert (target / "tokenizer.json").is_file()
    assert (
        tokenizer(str(target))("the fox")["input_ids"]
        == (tokenizer(str(plain))("the fox")["input_ids"])
    )
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []


def test_a_masked_model_with_the_names_of_old_checkpoints(tmp_path: Path) -> None:
    """Which transformers reads of BERT, and so is it read here."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    bert(source)
    both(
        renamed(r"LayerNorm\.weight", "LayerNorm.gamma"),
        renamed(r"LayerNorm\.bias", "LayerNorm.beta"),
        pickled,
    )(source)
    done = repair(source, target, allow_pickle=True)
    assert "called gamma weight" in done.changes
    text = "The [MASK] sat."
    answers = [
        load(str(each), device="cpu", allow_pickle=True).fill(text).to_dict()["gaps"]
        for each in (source, target)
    ]
    assert answers[0] == answers[1]


def test_what_cannot_be_repaired(
    families: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    source = tmp_path / "source"
    shutil.copytree(families("gpt2"), source)
    with pytest.raises(InvalidInput, match="there already"):
        repair(source, source)
    cast(torch.int32, "mlp")(source)
    with pytest.raises(CorruptModel, match="integer"):
        repair(source, tmp_path / "target")
    found = load_file(source / "model.safetensors")
    half = {name: each.float() for name, each in found.items() if ".1." not in name}
    save_file(half, source / "model.safetensors")
    with pytest.raises(CorruptModel):
        repair(source, tmp_path / "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]
    (source / "model.safetensors").unlink()
    (source / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    with pytest.raises(UnsafeModel, match="--allow-pickle"):
        repair(source, tmp_path / "target")
    with pytest.raises(UnsafeModel, match="something else than tensors"):
        repair(source, tmp_path / "target", allow_pickle=True)
    torch.save({"state_dict": {}}, source / "pytorch_model.bin")
    with pytest.raises(CorruptModel, match="no plain dictionary"):
        repair(source, tmp_path / "target", allow_pickle=True)


def test_the_command(
    families: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(families("gpt2"), source)
    prefixed("_orig_mod.")(source)
    refused = CliRunner().invoke(cli, ["generate", "-m", str(source), "the"])
    assert refused.exit_code == 1
    assert "llmcli models repair" in refused.stderr
    command = ["models", "repair", str(source), "-o", str(target)]
    result = CliRunner().invoke(cli, [*command, "--json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["folder"] == str(target)
    assert kind_of("models-repair", result.stdout) == "ModelRepaired"
    assert CliRunner().invoke(cli, command).exit_code == 2
    generated = CliRunner().invoke(cli, ["generate", "-m", str(target), "-n", "2", "the"])
    assert generated.exit_code == 0

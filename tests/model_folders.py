"""Model folders for tests: tiny models of several families, and ways to change them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FAMILIES = ("gpt2", "llama", "gpt_neox", "opt", "gpt_neo", "bloom", "qwen2")
WEIGHTS = "model.safetensors"
SHARDS = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def make_family(folder: Path, family: str, tokenizer: Path) -> None:
    """A random model of two layers with a byte-level tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copy(tokenizer / "tokenizer.json", folder)
    size = max(json.loads((tokenizer / "tokenizer.json").read_bytes())["model"]["vocab"].values())
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    extra: dict[str, dict[str, Any]] = {
        "llama": {"intermediate_size": 64, "num_key_value_heads": 2},
        "qwen2": {"intermediate_size": 64, "num_key_value_heads": 2, "tie_word_embeddings": True},
        "gpt_neox": {"intermediate_size": 64},
        "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
        "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    }
    # Token ids beyond the vocabulary are what some classes have for defaults.
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config: Any = AutoConfig.for_model(
        family,
        vocab_size=size + 1,
        max_position_embeddings=64,
        **sizes,
        **ids,
        **extra.get(family, {}),
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        auto: Any = AutoModelForCausalLM
        model = auto.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.15)
        model.tie_weights()
    model.save_pretrained(folder)
    fast = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(fast))


@pytest.fixture(scope="session")
def families(
    tmp_path_factory: pytest.TempPathFactory, tokenizer_folders: Callable[[str], Path]
) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            make_family(made[family], family, tokenizer_folders("gpt2"))
        return made[family]

    return folder


# -- how a folder is changed -----------------------------------------------------------------

Change = Callable[[Path], object]


def tensors(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Change:
    """Change the tensors of a folder."""

    def apply(folder: Path) -> None:
        changed = change(load_file(folder / WEIGHTS))
        save_file(
            {name: tensor.contiguous() for name, tensor in changed.items()},
            folder / WEIGHTS,
            metadata={"format": "pt"},
        )

    return apply


def fields(file: str = "config.json", without: tuple[str, ...] = (), **values: Any) -> Change:
    """Set and remove fields of a JSON file."""

    def apply(folder: Path) -> None:
        path = folder / file
        content = json.loads(path.read_bytes()) if path.exists() else {}
        content = {key: value for key, value in content.items() if key not in without}
        path.write_text(json.dumps({**content, **values}))

    return apply


def both(*changes: Change) -> Change:
    def apply(folder: Path) -> None:
        for change in changes:
            change(folder)

    return apply


def cast(dtype: torch.dtype, names: str = "") -> Change:
    return tensors(
        lambda found: {
            name: tensor.to(dtype) if re.search(names, name) else tensor
            for name, tensor in found.items()
        }
    )


def prefixed(prefix: str) -> Change:
    return tensors(lambda found: {prefix + name: tensor for name, tensor in found.items()})


def renamed(old: str, new: str) -> Change:
    return tensors(lambda found: {re.sub(old, new, name): each for name, each in found.items()})


def with_tensor(name: str, tensor: Tensor) -> Change:
    return tensors(lambda found: {**found, name: tensor})


def without_tensor(pattern: str) -> Change:
    return tensors(
        lambda found: {name: each for name, each in found.items() if not re.search(pattern, name)}
    )


def embedding(found: Mapping[str, Tensor]) -> str:
    return next(
        name for name in found if re.search(r"(?:wte|embed_tokens|word_embeddings)\.weight$", name)
    )


def head_beside(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**found, "lm_head.weight": found[embedding(found)].clone()}


def head_that_differs(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**found, "lm_head.weight": torch.ones_like(found[embedding(found)])}


def head_alone(found: dict[str, Tensor]) -> dict[str, Tensor]:
    name = embedding(found)
    rest = {key: each for key, each in found.items() if key != name}
    return {**rest, "lm_head.weight": found[name]}


def shard(folder: Path, *, index: bool = True, metadata: bool = True, keep: bool = False) -> None:
    found = load_file(folder / WEIGHTS)
    names = sorted(found)
    for place, part in zip(SHARDS, (names[::2], names[1::2]), strict=True):
        part_tensors = {name: found[name] for name in part}
        save_file(part_tensors, folder / place, metadata={"format": "pt"})
    places = {name: SHARDS[number % 2] for number, name in enumerate(names)}
    content: dict[str, Any] = {"weight_map": places, **({"metadata": {}} if metadata else {})}
    if index:
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(content))
    if not keep:
        (folder / WEIGHTS).unlink()


def pickled(folder: Path, *, keep: bool = False) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    if not keep:
        (folder / WEIGHTS).unlink()


def no_metadata(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS)


def general_names(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_bytes())
    names = {
        "n_layer": "num_hidden_layers",
        "num_layers": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "num_heads": "num_attention_heads",
        "n_embd": "hidden_size",
        "n_positions": "max_position_embeddings",
    }
    renamed = {names.get(key, key): value for key, value in config.items()}
    (folder / "config.json").write_text(json.dumps(renamed))


def more_rows(found: dict[str, Tensor]) -> dict[str, Tensor]:
    rows = {key: each for key, each in found.items() if re.search("wte|embed|lm_head", key)}
    return {**found, **{k: torch.cat([e, e[:7]]) for k, e in rows.items() if "pos" not in k}}


def padded(folder: Path) -> None:
    tensors(more_rows)(folder)
    size = json.loads((folder / "config.json").read_bytes())["vocab_size"]
    fields(vocab_size=size + 7)(folder)


def pair_of_files(folder: Path) -> None:
    state = json.loads((folder / "tokenizer.json").read_bytes())["model"]
    (folder / "vocab.json").write_text(json.dumps(state["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in state["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')


def value_head(folder: Path) -> None:
    with_tensor("v_head.summary.weight", torch.zeros(1, 32))(folder)

"""A trained model -> a folder that any transformers program loads, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer as Backend
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from llmcli.training.room import cannot_write
from llmcli.training.settings import StoredPrecision
from llmcli.training.vocabulary import for_transformers

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_LAST = "config.json"
_ABOUT = ("README.md", "loss.png")  # of the model that was here before
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


@contextlib.contextmanager
def rounded(model: nn.Module, precision: str) -> Iterator[None]:
    """Give the model, inside, the values that its weights have when stored."""
    kept = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(_DTYPES[precision]))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(kept[name])


def choose_precision(
    model: nn.Module, wanted: StoredPrecision, loss: Callable[[], float]
) -> tuple[str, dict[str, float]]:
    """Return the stored precision, and the validation loss of each that was tried.

    ``auto`` takes the 16-bit format that loses least.

    Args:
        model: The trained model.
        wanted: The setting.
        loss: Measures the model as it is.
    """
    tried = {}
    for precision in ("float16", "bfloat16") if wanted == "auto" else (wanted,):
        with rounded(model, precision):
            tried[precision] = loss()
    return min(tried, key=tried.__getitem__), tried


def write_model(model: PreTrainedModel, folder: Path, *, precision: str) -> None:
    """Write weights and configuration into a folder.

    Raises:
        StorageError: the disk does not take it.
    """
    dtype = _DTYPES[precision]
    model.config.use_cache = True
    model.config.dtype = dtype
    before = {name: parameter.data for name, parameter in model.named_parameters()}
    try:
        # save_pretrained writes what the parameters are; a tied head stays tied.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
    except (OSError, SafetensorError) as exc:
        raise cannot_write(folder, exc) from exc
    finally:
        for name, parameter in model.named_parameters():
            parameter.data = before[name]


def write_tokenizer(
    backend: Backend, folder: Path, *, context: int, copy_from: Path | None
) -> None:
    """Write a new tokenizer, or copy the files of the model that was trained further.

    Raises:
        StorageError: the disk does not take it.
    """
    try:
        if copy_from is None:
            for_transformers(backend, n_positions=context).save_pretrained(folder)
            _name_tokenizer_class(folder / "tokenizer_config.json")
            return
        for name in _TOKENIZER_FILES:
            if (copy_from / name).is_file():
                shutil.copyfile(copy_from / name, folder / name)
    except OSError as exc:
        raise cannot_write(folder, exc) from exc


def _name_tokenizer_class(path: Path) -> None:
    """Name the class that transformers 4 knows too; version 5 writes the name of its own."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config.pop("backend", None)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def sampling_defaults(end_of_text: int) -> GenerationConfig:
    """Return the generation_config.json of a new model."""
    make: Any = GenerationConfig
    config: GenerationConfig = make(
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,
        do_sample=True,
        temperature=0.8,
        top_p=0.95,
        top_k=0,
    )
    return config


def install(staged: Path, output: Path) -> None:
    """Move the files of ``staged`` into ``output``, so that a kill leaves no half of a model.

    ``config.json``, without which no program takes a folder for a model, goes first and comes
    last.

    Raises:
        StorageError: a file cannot be moved.
    """
    umask = os.umask(0)
    os.umask(umask)
    try:
        for path in staged.iterdir():
            path.chmod(0o666 & ~umask)  # safetensors writes for one user alone
            with path.open("rb") as file:
                os.fsync(file.fileno())
        for name in (_LAST, *_ABOUT):
            (output / name).unlink(missing_ok=True)
        for path in sorted(staged.iterdir(), key=lambda each: each.name == _LAST):
            path.replace(output / path.name)
        shutil.rmtree(staged)
        descriptor = os.open(output, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise cannot_write(output, exc) from exc

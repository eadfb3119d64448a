"""What a model is, told from its files alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmcli.errors import UnsupportedModel
from llmcli.hub.adapters import base_of, is_adapter
from llmcli.hub.inventory import model_files
from llmcli.hub.reference import quoted
from llmcli.hub.resolve import ResolvedModel
from llmcli.models.check import TABLES, Inspection, check_model_folder
from llmcli.models.config import (
    HEAD_KEYS,
    LAYER_KEYS,
    WIDTH_KEYS,
    context_size,
    first_size,
    text_part,
)
from llmcli.models.prepared import prepared_files

_LICENCE = re.compile(r"^license:\s*['\"]?([A-Za-z0-9][A-Za-z0-9 ._+-]{0,63})['\"]?\s*$", re.M)
_LONGEST_CARD = 2**20


def describe_folder(model: ResolvedModel) -> dict[str, Any]:
    """What a model is, from its config.json, its card and the headers of its weights.

    Raises:
        CorruptModel, UnsupportedModel, UnsafeModel: As `check_model_folder`.
    """
    if is_adapter(model.folder):
        base = base_of(model.folder)
        raise UnsupportedModel(
            f"{quoted(model.name)} holds an adapter for {quoted(base)}, not a whole model.",
            f"llmcli models show {base} describes what it adapts.",
        )
    found = check_model_folder(model.folder, allow_pickle=True, trust_remote_code=True)
    config, part = found.config, text_part(found.config)
    architectures = config.get("architectures")
    named = architectures if isinstance(architectures, list) and architectures else [None]
    files = {path.name: path.stat().st_size for path in model_files(model.folder)}
    return {
        "name": model.name,
        "origin": model.origin,
        "revision": model.commit,
        "folder": str(model.folder),
        "architecture": named[0] if isinstance(named[0], str) else None,
        "model_type": config["model_type"],
        "parameters": _parameters(found),
        "dtype": _dtype(found),
        "n_positions": context_size(config),
        "vocab_size": _size(part, ("vocab_size",)),
        "n_layer": _size(part, LAYER_KEYS),
        "n_embd": _size(part, WIDTH_KEYS),
        "n_head": _size(part, HEAD_KEYS),
        "pickled": found.pickled,
        "license": _licence(model.folder),
        "size": sum(files.values()),
        "prepared": sum(path.stat().st_size for path in prepared_files(model.folder)),
        "files": files,
    }


def _parameters(found: Inspection) -> int | None:
    if not found.tensors:
        return None
    return sum(
        info.size
        for name, info in found.tensors.items()
        if not (TABLES.search(name) and len(info.shape) != 1)
    )


def _dtype(found: Inspection) -> str | None:
    """The type that most of the weights have, as torch spells it."""
    sizes: dict[str, int] = {}
    for info in found.tensors.values():
        sizes[info.dtype] = sizes.get(info.dtype, 0) + info.size
    if not sizes:
        return None
    spelt = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
    most = max(sizes, key=lambda dtype: sizes[dtype])
    return spelt.get(most, most)


def _size(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    found = first_size(config, keys)
    return None if found is None else found[1]


def _licence(folder: Path) -> str | None:
    """The licence that the front matter of the model's card names."""
    path = folder / "README.md"
    if not path.is_file():  # a pipe would be waited for
        return None
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            card = file.read(_LONGEST_CARD)
    except OSError:
        return None
    front = card.split("\n---", 1)[0] if card.startswith("---") else ""
    match = _LICENCE.search(front)
    return match[1] if match else None

"""What an adapter's folder says: which model it belongs to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmcli.errors import CorruptModel, UnsupportedModel
from llmcli.hub.reference import quoted
from llmcli.io.model_files import read_regular

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_LARGEST = 2**20


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model of its own."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def read_adapter(folder: Path) -> dict[str, Any]:
    """Read and check adapter_config.json.

    Raises:
        CorruptModel: It is unreadable, or names no base model.
        UnsupportedModel: The weights are pickled or missing, or it asks for code of its own.
    """
    path = folder / ADAPTER_CONFIG
    cure = "Fetch the adapter again, or train it anew."
    try:
        config = json.loads(read_regular(path, _LARGEST, cure=cure))
    except OSError as error:
        raise CorruptModel(f"Cannot read {quoted(str(path))}: {error.strerror}.", cure) from error
    except (ValueError, RecursionError) as error:
        raise CorruptModel(f"{quoted(str(path))} is no valid JSON.", cure) from error
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise CorruptModel(f"{quoted(str(path))} does not say which peft_type it is.", cure)
    mapping = config.get("auto_mapping")
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    if library is not None and not str(library).startswith("transformers."):
        raise UnsupportedModel(
            f"{quoted(str(path))} asks for code from {quoted(str(library))}.",
            "Merge it into its base model with the program that made it.",
        )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UnsupportedModel(
            f"{quoted(str(folder))} holds an adapter without {ADAPTER_WEIGHTS}.",
            "Save it with safetensors (peft's save_pretrained does).",
        )
    return config


def base_of(folder: Path) -> str:
    """The name or folder of the model that an adapter was trained on.

    Raises:
        CorruptModel, UnsupportedModel: As `read_adapter`; or none is named.
    """
    base = read_adapter(folder).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CorruptModel(
            f"{quoted(str(folder / ADAPTER_CONFIG))} names no base_model_name_or_path.",
            "Name the base model there.",
        )
    return base

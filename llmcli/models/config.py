"""config.json, read with suspicion: every field that sizes anything has a type and a range."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from llmcli.errors import CorruptModel, UnsafeModel, UnsupportedModel
from llmcli.hub.reference import quoted
from llmcli.io.model_files import read_regular
from llmcli.models.fields import CONFIG_FIELDS, GENERATION_FIELDS, check_counts, check_fields
from llmcli.models.headers import FETCH_AGAIN
from llmcli.models.kinds import RELATIVE_POSITIONS

_LARGEST_CONFIG = 8 * 2**20
_MOST_MEMBERS = 20_000  # of config.json and all objects in it; real ones have some hundreds
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")

LAYER_KEYS = ("n_layer", "num_hidden_layers", "num_layers", "n_layers", "decoder_layers")
WIDTH_KEYS = ("n_embd", "hidden_size", "d_model")
HEAD_KEYS = ("n_head", "num_attention_heads", "num_heads", "n_heads", "attention_heads")
# The context; one of them is enough, the first that is set counts.
POSITION_KEYS = (
    *("n_positions", "max_position_embeddings", "n_ctx", "max_seq_len", "max_sequence_length"),
    *("seq_length", "context_length", "model_max_length", "max_decoder_position_embeddings"),
)
INNER_KEYS = ("n_inner", "intermediate_size", "ffn_dim")
EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")

# transformers lets GPT-2's heirs call these fields by their general names, which then go before
# their own (PreTrainedConfig.attribute_map).
_GPT2_NAMES = {
    "num_hidden_layers": "n_layer",
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
GENERAL_NAMES: dict[str, dict[str, str]] = {
    **dict.fromkeys(
        ("gpt2", "gpt-sw3", "gptj", "codegen", "ctrl", "gpt_bigcode", "openai-gpt"), _GPT2_NAMES
    ),
    "bloom": {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"},
    "gpt_neo": {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"},
    "mpt": {
        "num_hidden_layers": "n_layers",
        "hidden_size": "d_model",
        "num_attention_heads": "n_heads",
    },
    "dbrx": {
        "num_hidden_layers": "n_layers",
        "hidden_size": "d_model",
        "num_attention_heads": "n_heads",
        "max_position_embeddings": "max_seq_len",
    },
    "xglm": {
        "num_hidden_layers": "num_layers",
        "hidden_size": "d_model",
        "num_attention_heads": "attention_heads",
    },
    "rwkv": {"max_position_embeddings": "context_length"},
    "xlnet": {
        "num_hidden_layers": "n_layer",
        "hidden_size": "d_model",
        "num_attention_heads": "n_head",
    },
}
_OWN_ATTENTION = (None, "eager", "sdpa", "flex_attention")


def read_config(path: Path) -> dict[str, Any]:
    """Read and check a model's config.json.

    Raises:
        CorruptModel: It is missing, unreadable, something else, or a field cannot be right;
            the message names the field.
        UnsafeModel: It names code, kernels or files from elsewhere.
        UnsupportedModel: It needs a quantiser or an attention that is not in transformers.
    """
    config = _read_object(path)
    model_type = config.get("model_type")
    if model_type is None:
        _refuse(path, "does not say which model_type it describes")
    if not isinstance(model_type, str) or not _NAME.fullmatch(model_type):
        _refuse(path, "has a model_type that is no name")
    if sum(len(part) for _, part in _parts("", config, depth=0)) > _MOST_MEMBERS:
        _refuse(path, f"has more than {_MOST_MEMBERS:,} fields, which no config.json has")
    for place, part in _parts("", config, depth=0):
        check_fields(path, place, part, CONFIG_FIELDS)
        check_counts(path, place, part)
        _refuse_foreign_parts(path, part)
    config = _with_own_names(config)
    _check_heads(path, config)
    return config


def read_generation_config(path: Path) -> dict[str, Any]:
    """Read and check a model's generation_config.json; empty where there is none.

    Raises:
        CorruptModel: It is unreadable, something else, or a field has a value of another type;
            the message names the field.
    """
    if not os.path.lexists(path):
        return {}
    config = _read_object(path)
    if len(config) > _MOST_MEMBERS:
        _refuse(path, f"has more than {_MOST_MEMBERS:,} fields")
    check_fields(path, "", config, GENERATION_FIELDS)
    return config


def settings_of(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What config.json itself says of generating; older models have no other file for it.

    Raises:
        CorruptModel: A field has a value of another type; the message names the field.
    """
    found = {key: value for key, value in config.items() if key in GENERATION_FIELDS}
    check_fields(path, "", found, GENERATION_FIELDS)
    return found


def context_size(config: Mapping[str, Any]) -> int | None:
    """The context that config.json states; None where it states none."""
    if config.get("model_type") in RELATIVE_POSITIONS:
        return None  # n_positions of T5 bounds nothing
    part = text_part(config)
    found = first_size(part, POSITION_KEYS) or first_size(config, POSITION_KEYS)
    return None if found is None else found[1]


def _with_own_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with its fields under the names that its own class has for them."""
    own = GENERAL_NAMES.get(str(config.get("model_type")), {})
    renamed = {own[key]: value for key, value in config.items() if key in own}
    return {key: value for key, value in config.items() if key not in own} | renamed


def first_size(config: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[str, int] | None:
    """The first of several names of a field that is set, and its value."""
    for key in keys:
        if isinstance(value := config.get(key), int):  # not a list, one for each layer
            return key, value
    return None


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part that describes the language model, of a model that has others, too."""
    part = config.get("text_config")
    return part if isinstance(part, dict) else config


def uses_remote_code(config: Mapping[str, Any]) -> bool:
    """Whether config.json wants Python files of the repository to be run."""
    return any(part.get("auto_map") for _, part in _parts("", config, depth=0))


def _read_object(path: Path) -> dict[str, Any]:
    try:
        data = read_regular(path, _LARGEST_CONFIG, cure=FETCH_AGAIN)
    except OSError as error:
        cure = "A model's folder holds config.json, tokenizer.json and model.safetensors."
        raise CorruptModel(f"Cannot read {quoted(str(path))}: {error.strerror}.", cure) from error
    if data.lstrip()[:1] == b"<":
        _refuse(path, "is HTML, not JSON")
    if data.startswith(b"version https://git-lfs"):
        _refuse(path, "is a git-lfs pointer")
    try:
        config = json.loads(data)  # Infinity and NaN included, as transformers writes them
    except (ValueError, RecursionError):
        _refuse(path, "is no valid JSON")
    if not isinstance(config, dict):
        _refuse(path, f"holds a {type(config).__name__}, not a JSON object")
    return config


def _parts(
    place: str, config: Mapping[str, Any], *, depth: int
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The object and those in it, such as text_config, with the way there."""
    yield place, config
    if depth < 4:
        for key, value in config.items():
            if isinstance(value, dict):
                yield from _parts(f"{place}{key}.", value, depth=depth + 1)


def _check_heads(path: Path, config: Mapping[str, Any]) -> None:
    part = text_part(config)
    width, heads = first_size(part, WIDTH_KEYS), first_size(part, HEAD_KEYS)
    if part.get("head_dim") is not None or width is None or heads is None:
        return
    if width[1] % heads[1]:
        _refuse(path, f"has {width[0]} {width[1]}, which {heads[0]} {heads[1]} does not divide")


def _refuse_foreign_parts(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse what would bring in code, kernels or weights from somewhere else."""
    name = quoted(str(path))
    for key in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"):
        value = config.get(key)
        if isinstance(value, str) and "/" in value:
            raise UnsafeModel(
                f"{name} asks for code from the Hub: {key} is {quoted(value)}.",
                "Remove that field, or choose another model.",
            )
        if value not in _OWN_ATTENTION:
            raise UnsupportedModel(
                f"{name} asks for an attention that is not here: {key} is {quoted(str(value))}.",
                "Remove that field, or choose another model.",
            )
    for key in ("kernel_config", "use_kernels", "custom_generate", "transformers_weights"):
        if config.get(key):
            raise UnsafeModel(
                f"{name} asks for code or weights from elsewhere: it sets {key}.",
                "Remove that field, or choose another model.",
            )
    if config.get("quantization_config") is not None:
        raise UnsupportedModel(
            f"{name} describes a quantised model, which needs a quantiser's own code.",
            "Choose the model in float16, bfloat16 or float32; --precision makes it smaller here.",
        )


def _refuse(path: Path, what: str) -> NoReturn:
    raise CorruptModel(f"{quoted(str(path))} {what}.", FETCH_AGAIN)

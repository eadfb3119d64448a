"""config.json, read with suspicion: every field that sizes anything has a type and a range."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from llmcli.errors import CorruptModel, UnsafeModel, UnsupportedModel
from llmcli.hub.reference import quoted
from llmcli.models.headers import FETCH_AGAIN

_LARGEST_CONFIG = 8 * 2**20
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")

LAYER_KEYS = ("n_layer", "num_hidden_layers", "num_layers", "n_layers", "decoder_layers")
WIDTH_KEYS = ("n_embd", "hidden_size", "d_model")
HEAD_KEYS = ("n_head", "num_attention_heads", "num_heads")
POSITION_KEYS = ("n_positions", "max_position_embeddings")
INNER_KEYS = ("n_inner", "intermediate_size", "ffn_dim")
EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
# Each size may be at most this; a field that is null or missing has the library's default.
_SIZES = {
    **dict.fromkeys(LAYER_KEYS, 10**5),
    **dict.fromkeys(WIDTH_KEYS, 10**6),
    **dict.fromkeys((*HEAD_KEYS, "num_key_value_heads", "head_dim"), 10**5),
    **dict.fromkeys((*POSITION_KEYS, "n_ctx"), 2 * 10**7),
    **dict.fromkeys(INNER_KEYS, 10**7),
    "vocab_size": 10**8,
}
# Whatever else is called like this is built that many times, or that large, by somebody.
_COUNT_NAME = re.compile(r"(?:layers?|experts?|labels|heads|blocks|groups|codebooks|stages)$")
_SIZE_NAME = re.compile(r"(?:size|dim|rank|width|channels|features|vocab)$")
_MOST_COUNTED = 10**4
_LARGEST_SIZE = 10**7
_FRACTIONS = ("embd_pdrop", "resid_pdrop", "attn_pdrop", "attention_dropout", "hidden_dropout")
_POSITIVE = ("layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps", "initializer_range")
_FLAGS = ("tie_word_embeddings", "scale_attn_weights", "use_cache", "add_cross_attention")
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
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
    for place, part in _parts("", config, depth=0):
        _check_fields(path, place, part)
        _refuse_foreign_parts(path, part)
    _check_heads(path, config)
    return config


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
        size = path.stat().st_size
        if size > _LARGEST_CONFIG:
            _refuse(path, f"is {size:,} bytes long, which no config.json is")
        data = path.read_bytes()
    except OSError as error:
        cure = "A model's folder holds config.json, tokenizer.json and model.safetensors."
        if (path.parent / "adapter_config.json").exists():
            cure = "The folder holds adapters alone. Merge them: llmcli train --lora --merge."
        raise CorruptModel(f"Cannot read {quoted(str(path))}: {error.strerror}.", cure) from error
    if data.lstrip()[:1] == b"<":
        _refuse(path, "is HTML, not JSON")
    if data.startswith(b"version https://git-lfs"):
        _refuse(path, "is a git-lfs pointer")
    try:
        config = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        _refuse(path, "is no valid JSON")
    if not isinstance(config, dict):
        _refuse(path, f"holds a {type(config).__name__}, not a JSON object")
    return config


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _parts(
    place: str, config: Mapping[str, Any], *, depth: int
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The object and those in it, such as text_config, with the way there."""
    yield place, config
    if depth < 4:
        for key, value in config.items():
            if isinstance(value, dict):
                yield from _parts(f"{place}{key}.", value, depth=depth + 1)


def _check_fields(path: Path, place: str, config: Mapping[str, Any]) -> None:
    for key, most in _SIZES.items():
        value = config.get(key)
        # A list gives each layer its own.
        sizes = value if isinstance(value, list) else [value]
        if value is not None and any(type(n) is not int or not 1 <= n <= most for n in sizes):
            _refuse_field(path, place + key, value, f"a whole number from 1 to {most:,}")
    for key, value in config.items():
        counted = _COUNT_NAME.search(key) is not None
        most = _MOST_COUNTED if counted else _LARGEST_SIZE
        named = counted or _SIZE_NAME.search(key) is not None
        if named and key not in _SIZES and _is_number(value) and value > most:
            _refuse_field(path, place + key, value, f"a number up to {most:,}")
    for key in _FRACTIONS:
        value = config.get(key)
        if value is not None and not (_is_number(value) and 0 <= value <= 1):
            _refuse_field(path, place + key, value, "a number from 0 to 1")
    for key in _POSITIVE:
        value = config.get(key)
        if value is not None and not (_is_number(value) and 0 <= value < 1e6):
            _refuse_field(path, place + key, value, "a number from 0 on")
    for key in _FLAGS:
        value = config.get(key)
        if value is not None and not isinstance(value, bool):
            _refuse_field(path, place + key, value, "true or false")
    for key in _TOKEN_IDS:
        value = config.get(key)
        ids = value if isinstance(value, list) else [value]
        if any(each is not None and type(each) is not int for each in ids):
            _refuse_field(path, place + key, value, "a token id or a list of them")
    for key in ("dtype", "torch_dtype", "activation_function", "hidden_act"):
        value = config.get(key)
        if value is not None and not (isinstance(value, str) and _NAME.fullmatch(value)):
            _refuse_field(path, place + key, value, "a name")


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


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _refuse_field(path: Path, field: str, value: Any, expected: str) -> NoReturn:
    shown = json.dumps(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    raise CorruptModel(f"{quoted(str(path))}: {field} is {shown}, not {expected}.", FETCH_AGAIN)


def _refuse(path: Path, what: str) -> NoReturn:
    raise CorruptModel(f"{quoted(str(path))} {what}.", FETCH_AGAIN)

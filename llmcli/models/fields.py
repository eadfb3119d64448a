"""Which fields of a model's JSON files may hold what: one table for each file.

Every field that this package reads is in a table, and the others that transformers builds
something by. A field that is null or missing has the library's default. What no table names is
left to transformers, but for what looks like a count or a size.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from llmcli.errors import CorruptModel
from llmcli.hub.reference import quoted
from llmcli.models.headers import FETCH_AGAIN

__all__ = ["CONFIG_FIELDS", "GENERATION_FIELDS", "check_counts", "check_fields"]

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
# Whatever else is called like this is built that many times, or that large, by somebody.
_COUNT_NAME = re.compile(r"(?:layers?|experts?|labels|heads|blocks|groups|codebooks|stages)$")
_SIZE_NAME = re.compile(r"(?:size|dim|rank|width|channels|features|vocab)$")
_MOST_COUNTED = 10**4
_LARGEST_SIZE = 10**7
_LARGEST_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Kind:
    """What a field may hold.

    Attributes:
        expected: In words, after "not".
        holds: Whether a value is such; null never gets here.
    """

    expected: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    # A whole number that no float holds would be an error in somebody's arithmetic.
    return math.isfinite(value) if type(value) is float else _is_exact(value)


def _is_exact(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**53


def _whole(most: int, least: int = 1) -> Kind:
    return Kind(
        f"a whole number from {least} to {most:,}",
        lambda value: type(value) is int and least <= value <= most,
    )


def _size(most: int) -> Kind:
    """A size, or a list that gives each layer its own."""
    one = _whole(most)
    return Kind(
        one.expected,
        lambda value: all(map(one.holds, value)) if isinstance(value, list) else one.holds(value),
    )


def _number(least: float, most: float, words: str) -> Kind:
    return Kind(words, lambda value: _is_number(value) and least <= value <= most)


def _list_of(kind: Kind, expected: str) -> Kind:
    return Kind(expected, lambda value: isinstance(value, list) and all(map(kind.holds, value)))


_FLAG = Kind("true or false", lambda value: isinstance(value, bool))
_FRACTION = _number(0, 1, "a number from 0 to 1")
_POSITIVE = _number(0, 1e6, "a number from 0 on")
_FACTOR = _number(0, 1e12, "a number from 0 on")
_ANY_NUMBER = Kind("a number", _is_number)
_WORD = Kind("a name", lambda value: isinstance(value, str) and bool(_NAME.fullmatch(value)))
_TEXT = Kind("a text", lambda value: isinstance(value, str))
_OBJECT = Kind("an object", lambda value: isinstance(value, dict))
_WORDS = _list_of(_WORD, "a list of names")
_ID = Kind("a token id", lambda value: type(value) is int and -_LARGEST_ID <= value <= _LARGEST_ID)
_IDS = _list_of(_ID, "a list of token ids")
_ID_OR_IDS = Kind(
    "a token id or a list of them",
    lambda value: (
        all(each is None or _ID.holds(each) for each in value)
        if isinstance(value, list)
        else _ID.holds(value)
    ),
)
_LAYERS, _WIDTH, _HEADS, _POSITIONS = _size(10**5), _size(10**6), _size(10**5), _size(2 * 10**7)
_INNER = _size(10**7)
_TOKENS = _whole(10**9, -1)

CONFIG_FIELDS: Mapping[str, Kind] = {
    **dict.fromkeys(
        ("n_layer", "num_hidden_layers", "num_layers", "n_layers", "decoder_layers"), _LAYERS
    ),
    **dict.fromkeys(("n_embd", "hidden_size", "d_model"), _WIDTH),
    **dict.fromkeys(("word_embed_proj_dim", "embedding_size"), _WIDTH),
    **dict.fromkeys(
        ("n_head", "num_attention_heads", "num_heads", "n_heads", "attention_heads"), _HEADS
    ),
    **dict.fromkeys(("num_key_value_heads", "head_dim"), _HEADS),
    **dict.fromkeys(
        ("n_positions", "max_position_embeddings", "n_ctx", "max_seq_len", "seq_length"),
        _POSITIONS,
    ),
    **dict.fromkeys(("context_length", "max_sequence_length"), _POSITIONS),
    **dict.fromkeys(("n_inner", "intermediate_size", "ffn_dim"), _INNER),
    "vocab_size": _size(10**8),
    **dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), _FRACTION),
    **dict.fromkeys(("attention_dropout", "hidden_dropout", "dropout"), _FRACTION),
    **dict.fromkeys(("rotary_pct", "partial_rotary_factor"), _FRACTION),
    **dict.fromkeys(("layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps"), _POSITIVE),
    **dict.fromkeys(("norm_eps", "initializer_range"), _POSITIVE),
    "rope_theta": _FACTOR,
    **dict.fromkeys(("tie_word_embeddings", "use_cache", "add_cross_attention"), _FLAG),
    **dict.fromkeys(("scale_attn_weights", "scale_attn_by_inverse_layer_idx"), _FLAG),
    **dict.fromkeys(("reorder_and_upcast_attn", "is_decoder", "is_encoder_decoder"), _FLAG),
    **dict.fromkeys(("use_parallel_residual", "alibi", "multi_query", "parallel_attn"), _FLAG),
    **dict.fromkeys(("new_decoder_architecture", "do_layer_norm_before", "mlp_bias"), _FLAG),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), _ID_OR_IDS),
    **dict.fromkeys(("dtype", "torch_dtype", "activation_function", "hidden_act"), _WORD),
    **dict.fromkeys(("model_type", "tokenizer_class"), _WORD),
    **dict.fromkeys(("transformers_version", "_name_or_path"), _TEXT),
    **dict.fromkeys(("architectures", "layer_types"), _WORDS),
    **dict.fromkeys(("text_config", "rope_scaling", "rope_parameters", "pruned_heads"), _OBJECT),
    **dict.fromkeys(("id2label", "label2id", "task_specific_params"), _OBJECT),
}

GENERATION_FIELDS: Mapping[str, Kind] = {
    **dict.fromkeys(("do_sample", "use_cache", "remove_invalid_values"), _FLAG),
    **dict.fromkeys(("renormalize_logits",), _FLAG),
    "early_stopping": Kind(
        'true, false or "never"', lambda value: isinstance(value, bool) or value == "never"
    ),
    # Ranges are checked with the other sampling settings; here, types.
    **dict.fromkeys(
        ("temperature", "repetition_penalty", "encoder_repetition_penalty"), _ANY_NUMBER
    ),
    **dict.fromkeys(("top_p", "min_p", "typical_p", "top_h"), _ANY_NUMBER),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff", "diversity_penalty"), _ANY_NUMBER),
    **dict.fromkeys(("length_penalty", "guidance_scale", "penalty_alpha"), _ANY_NUMBER),
    **dict.fromkeys(("top_k", "no_repeat_ngram_size", "min_length", "min_new_tokens"), _TOKENS),
    **dict.fromkeys(("max_length", "max_new_tokens", "encoder_no_repeat_ngram_size"), _TOKENS),
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), _whole(10**4)),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), _ID_OR_IDS),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id"), _ID_OR_IDS),
    "decoder_start_token_id": _ID_OR_IDS,
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens"), _IDS),
    "bad_words_ids": _list_of(_IDS, "a list of lists of token ids"),
    "stop_strings": Kind(
        "a text or a list of texts",
        lambda value: (
            isinstance(value, str)
            or (isinstance(value, list) and all(isinstance(each, str) for each in value))
        ),
    ),
}


def check_fields(
    path: Path, place: str, config: Mapping[str, Any], fields: Mapping[str, Kind]
) -> None:
    """Refuse a file with a field that cannot hold what it holds.

    Args:
        path: The file, for the message.
        place: The way to this object in it ("text_config."), or "".
        config: The object.
        fields: What each field may hold.

    Raises:
        CorruptModel: The message names the field and shows its value.
    """
    for key in config.keys() & fields.keys():
        value, kind = config[key], fields[key]
        if value is not None and not kind.holds(value):
            _refuse(path, place + key, value, kind.expected)


def check_counts(path: Path, place: str, config: Mapping[str, Any]) -> None:
    """Refuse numbers too large in fields that nobody here knows, and that name a size.

    Raises:
        CorruptModel: As `check_fields`.
    """
    for key, value in config.items():
        counted = _COUNT_NAME.search(key) is not None
        most = _MOST_COUNTED if counted else _LARGEST_SIZE
        named = counted or _SIZE_NAME.search(key) is not None
        number = type(value) in (int, float)
        if named and key not in CONFIG_FIELDS and number and value > most:
            _refuse(path, place + key, value, f"a number up to {most:,}")


def _refuse(path: Path, field: str, value: Any, expected: str) -> NoReturn:
    shown = json.dumps(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    cure = FETCH_AGAIN if path.name == "config.json" else "Correct or delete the file."
    raise CorruptModel(f"{quoted(str(path))}: {field} is {shown}, not {expected}.", cure)

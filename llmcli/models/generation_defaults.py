"""What generation_config.json sets, as settings of our own; what we do not have is named."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from llmcli.engine.params import SamplingParams
from llmcli.errors import CorruptModel, InvalidInput

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel

# Settings that are ours, too, by the same name.
_SAME = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "top_h",
    "epsilon_cutoff",
    "eta_cutoff",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "min_new_tokens",
    "min_length",
    "max_new_tokens",
    "max_length",
    "num_beams",
    "length_penalty",
    "early_stopping",
)
_LISTS_OF_IDS = (
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
)
# What changes a text and is not here, and the values with which it does nothing.
_FOREIGN: dict[str, tuple[Any, ...]] = {
    "constraints": (),
    "diversity_penalty": (0,),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "force_words_ids": (),
    "forced_decoder_ids": (),
    "guidance_scale": (1,),
    "max_time": (),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0,),
    "remove_invalid_values": (False,),
    "token_healing": (False,),
    "watermarking_config": (),
}


def generation_defaults(model: LanguageModel) -> dict[str, Any]:
    """What a model's generation_config.json sets, by SamplingParams' names.

    ``do_sample: false`` is temperature 0. Tokens that the embedding has no row for are left out,
    and so are settings that llmcli does not have; a notice names them.

    Raises:
        CorruptModel: a value is out of its range.
    """
    config = model.generation_config
    defaults = {key: config[key] for key in _SAME if config.get(key) is not None}
    for key in _LISTS_OF_IDS:
        if ids := model.own_ids(config.get(key), source=f"{key} of generation_config.json"):
            defaults[key] = ids
    if isinstance(stops := config.get("stop_strings"), str):
        defaults["stop"] = (stops,)
    elif stops:
        defaults["stop"] = tuple(stops)
    if config.get("do_sample") is False:
        defaults["temperature"] = 0.0
    try:
        if words := config.get("bad_words_ids"):
            defaults["bad_words_ids"] = _bad_words(model, words)
        if biases := config.get("sequence_bias"):
            defaults["sequence_bias"] = _sequence_bias(model, biases)
        if decay := config.get("exponential_decay_length_penalty"):
            defaults["exponential_decay_length_penalty"] = _decay(decay)
        longest = defaults.get("max_new_tokens")
        SamplingParams(**{**defaults, "max_new_tokens": longest})
    except (InvalidInput, TypeError) as exc:
        raise CorruptModel(
            f"{model.folder / 'generation_config.json'} is invalid: {exc}",
            "Correct or delete the file.",
        ) from exc
    _name_foreign(model, config)
    return {"temperature": 1.0, **defaults} if config.get("do_sample") else defaults


def _name_foreign(model: LanguageModel, config: dict[str, Any]) -> None:
    foreign = [
        key
        for key, idle in _FOREIGN.items()
        if config.get(key) is not None and config[key] not in idle
    ]
    if foreign:
        model.notify(
            f"generation_config.json sets {', '.join(foreign)}, which llmcli does not have: the "
            "text may differ from transformers'."
        )


def _bad_words(model: LanguageModel, words: Iterable[Any]) -> tuple[tuple[int, ...], ...]:
    """The sequences, without those that are an end token alone, as transformers has it."""
    sequences = tuple(tuple(word) for word in words)
    if not all(sequences):
        raise InvalidInput("one of bad_words_ids is empty.")
    whole = _known(model, sequences, "bad_words_ids")
    return tuple(each for each in whole if not (len(each) == 1 and each[0] in model.eos_ids))


def _sequence_bias(model: LanguageModel, biases: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Pairs of token ids and a number, later ones of the same ids in the place of earlier ones."""
    found: dict[tuple[int, ...], float] = {}
    if not isinstance(biases, list):
        raise InvalidInput("sequence_bias is no list.")
    for pair in biases:
        if not (isinstance(pair, list) and len(pair) == 2 and _are_ids(pair[0])):
            raise InvalidInput("sequence_bias holds what is no pair of token ids and a number.")
        if isinstance(pair[1], bool) or not isinstance(pair[1], int | float):
            raise InvalidInput(f"sequence_bias holds {pair[1]!r:.40}, which is no number.")
        found[tuple(pair[0])] = float(pair[1])
    known = _known(model, tuple(found), "sequence_bias")
    return tuple((sequence, found[sequence]) for sequence in known)


def _are_ids(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(each) is int and each >= 0 for each in value)
    )


def _known(
    model: LanguageModel, sequences: tuple[tuple[int, ...], ...], name: str
) -> tuple[tuple[int, ...], ...]:
    """The sequences whose tokens the model has, a notice for the others."""
    ids = [token for sequence in sequences for token in sequence]
    known = set(model.own_ids(ids, source=f"{name} of generation_config.json"))
    return tuple(each for each in sequences if known.issuperset(each))


def _decay(value: Any) -> tuple[int, float]:
    if isinstance(value, list) and len(value) == 2:
        start, factor = value
        known = type(start) is int and start >= 0 and type(factor) in (int, float)
        if known and math.isfinite(factor):
            return start, float(factor)
    raise InvalidInput("exponential_decay_length_penalty is no pair of a start and a factor.")

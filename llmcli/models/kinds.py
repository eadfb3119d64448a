"""Which architectures continue texts, and how much of their position table they can use."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from llmcli.errors import UnsupportedModel

# Trained to fill gaps, seeing what comes after; causal where the config says is_decoder.
_MASKED = frozenset(
    {
        "albert", "bert", "bert-generation", "big_bird", "camembert", "convbert", "data2vec-text",
        "deberta", "deberta-v2", "distilbert", "electra", "ernie", "esm", "eurobert", "flaubert",
        "funnel", "ibert", "layoutlm", "longformer", "luke", "megatron-bert", "mobilebert",
        "modernbert", "mpnet", "mra", "nystromformer", "rembert", "roberta",
        "roberta-prelayernorm", "roc_bert", "roformer", "squeezebert", "xlm-roberta",
        "xlm-roberta-xl", "xmod", "yoso",
    }
)  # fmt: skip
_OTHERS = {
    "cpmant": "sees a prompt's tokens in both directions",
    "fnet": "mixes each token with those after it",
    "prophetnet": "predicts several tokens at once",
    "reformer": "picks what it attends to by hashes that are drawn at random",
    "xlnet": "was trained on permuted texts and sees what comes after a token",
}
# Their positions begin after that of the padding token.
_AFTER_PADDING = frozenset(
    {
        "camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta",
        "xlm-roberta-xl", "xmod",
    }
)  # fmt: skip


Kind = Literal["causal", "encoder-decoder", "masked"]
"""What a model does: continues texts, answers a text with another, or fills gaps."""
CAUSAL: tuple[Kind, ...] = ("causal",)
MASKED: tuple[Kind, ...] = ("masked",)

# Their positions are distances: what they can read is bounded by memory alone.
RELATIVE_POSITIONS = frozenset(
    {"longt5", "mt5", "pop2piano", "switch_transformers", "t5", "udop", "umt5"}
)
_REFUSALS: dict[Kind, tuple[str, str]] = {
    "causal": (
        "continues texts: it fills no gaps, and answers none",
        "Use a masked model, such as google-bert/bert-base-uncased, to fill gaps.",
    ),
    "encoder-decoder": (
        "is an encoder with a decoder: it answers a text, and continues none",
        "Use it with llmcli generate, or a model that was trained to continue texts.",
    ),
    "masked": (
        "is a masked language model: it fills gaps, and continues no text",
        "Use llmcli fill, score --convention pll, or a model that was trained to continue texts.",
    ),
}


def kind_of(config: Mapping[str, Any]) -> Kind:
    """What a model was made for, by its config.json."""
    if config.get("is_encoder_decoder") is True:
        return "encoder-decoder"
    masked = config.get("model_type") in _MASKED and config.get("is_decoder") is not True
    return "masked" if masked else "causal"


def check_kind(config: Mapping[str, Any], *, name: str, kinds: Collection[Kind] = CAUSAL) -> None:
    """Refuse a model that was not made for what is asked of it.

    Args:
        config: The content of config.json.
        name: The model's, for the message.
        kinds: What will do.

    Raises:
        UnsupportedModel: It is of another kind, or of none.
    """
    kind, model_type = kind_of(config), config.get("model_type")
    if kind not in kinds:
        what, cure = _REFUSALS[kind]
        raise UnsupportedModel(f"{name} ({model_type}) {what}.", cure)
    if kind != "causal":
        return
    cure = "Use a model that was trained to continue texts."
    if model_type == "xlm" and config.get("causal") is not True:
        raise UnsupportedModel(f"{name} (xlm) is not causal: config.json does not say so.", cure)
    if isinstance(model_type, str) and model_type in _OTHERS:
        raise UnsupportedModel(f"{name} ({model_type}) {_OTHERS[model_type]}.", cure)


def usable_positions(config: Mapping[str, Any], positions: int) -> int:
    """How many tokens of a context of so many can be used.

    Where attention goes to an index's choice of tokens alone, what transformers computes depends
    on what comes after, as soon as there are more tokens than are chosen.
    """
    chosen = config.get("index_topk")
    if isinstance(chosen, int) and not isinstance(chosen, bool):
        positions = min(positions, chosen)
    if config.get("model_type") in _AFTER_PADDING:
        padding = config.get("pad_token_id", 1)
        positions -= 1 + (padding if isinstance(padding, int) else 1)
    return positions

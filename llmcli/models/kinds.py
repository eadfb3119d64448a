"""Which architectures continue texts, and how much of their position table they can use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def check_continues(config: Mapping[str, Any], *, name: str) -> None:
    """Refuse a model that was not made to continue texts.

    Args:
        config: The content of config.json.
        name: The model's, for the message.

    Raises:
        UnsupportedModel: It is masked, an encoder with a decoder, or else not causal.
    """
    kind = config.get("model_type")
    cure = "Use a model that was trained to continue texts."
    if config.get("is_encoder_decoder") is True:
        raise UnsupportedModel(
            f"{name} ({kind}) is an encoder with a decoder: it answers a text, and continues none.",
            cure,
        )
    if kind in _MASKED and config.get("is_decoder") is not True:
        raise UnsupportedModel(
            f"{name} ({kind}) is a masked language model: it fills gaps, and continues no text.",
            cure,
        )
    if kind == "xlm" and config.get("causal") is not True:
        raise UnsupportedModel(f"{name} (xlm) is not causal: config.json does not say so.", cure)
    if isinstance(kind, str) and kind in _OTHERS:
        raise UnsupportedModel(f"{name} ({kind}) {_OTHERS[kind]}.", cure)


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

"""What ``--draft`` names: a draft for speculative decoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmcli.errors import InvalidInput, UnsupportedModel

if TYPE_CHECKING:
    from llmcli.engine.speculative import Draft
    from llmcli.models.language_model import LanguageModel


def make_draft(
    name: str, model: LanguageModel, load_other: Callable[[str], LanguageModel]
) -> Draft:
    """Return the draft that a name stands for.

    Args:
        name: ``ngram``, ``int8``, or a model.
        model: The model that will check the proposals.
        load_other: Loads a model by name.

    Raises:
        InvalidInput: the named model has another vocabulary.
        UnsupportedModel: int8, for a model that the fast decoder cannot run.
        ModelError: the named model cannot be had or loaded.
    """
    from llmcli.engine.speculative import ModelDraft, NgramDraft

    if name == "ngram":
        return NgramDraft()
    if name == "int8":
        return ModelDraft(_quantised(model).decoder())
    other = load_other(name)
    if other.tokenizer.backend.get_vocab() != model.tokenizer.backend.get_vocab():
        raise InvalidInput(
            f"{name} has another vocabulary than {model.name}.",
            "A draft model must share the model's tokenizer: distilgpt2 goes with gpt2-xl.",
        )
    return ModelDraft(other.decoder())


def _quantised(model: LanguageModel) -> LanguageModel:
    from llmcli.engine.gpt2_weights import supports
    from llmcli.models.loader import load_resolved
    from llmcli.models.options import LoadOptions

    if not supports(model.config) or model.device != "cpu":
        raise UnsupportedModel(
            f"{model.name} cannot be quantised to int8 on this device.", "Use --draft ngram."
        )
    options = LoadOptions(
        device="cpu",
        precision="int8",
        allow_pickle=model.allow_pickle,
        trust_remote_code=model.trust_remote_code,
    )
    return load_resolved(model.resolved, options, notify=model.notify)

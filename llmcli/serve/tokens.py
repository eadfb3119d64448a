"""The routes about tokens: text to ids, ids to text, and what the tokenizer is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llmcli.errors import InvalidInput, LlmcliError
from llmcli.serve.errors import ApiError, api_error
from llmcli.serve.plan import chat_ids
from llmcli.serve.schema import DetokenizeBody, TokenizeBody
from llmcli.tasks.prompts import encode_prompt

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel
    from llmcli.tokenization.chat import ChatTemplate


def tokenize(
    model: LanguageModel, asked: TokenizeBody, template: Callable[[], ChatTemplate]
) -> dict[str, Any]:
    """The tokens of a text, or of messages as the model reads them.

    Raises:
        ApiError: neither or both were given, or they cannot be encoded.
    """
    if (asked.prompt is None) == (asked.messages is None):
        raise ApiError(400, "Give prompt or messages.", param="prompt", code="invalid_value")
    try:
        if asked.messages is not None:
            ids = chat_ids(model, asked.messages, template())
        elif asked.add_special_tokens:
            ids = encode_prompt(model, asked.prompt or "")
        else:
            ids = model.tokenizer.ids(asked.prompt or "")
    except LlmcliError as exc:
        raise api_error(exc, param="prompt") from exc
    told: dict[str, Any] = {
        "count": len(ids),
        "max_model_len": model.n_positions,
        "tokens": ids,
    }
    if asked.return_token_strs:
        told["token_strs"] = [model.tokenizer.token_string(each) for each in ids]
    return told


def detokenize(model: LanguageModel, asked: DetokenizeBody) -> dict[str, Any]:
    """The text of tokens, and its exact bytes where it is no UTF-8.

    Raises:
        ApiError: a token is none.
    """
    try:
        data = model.tokenizer.decode_bytes(asked.tokens)
    except InvalidInput as exc:
        raise api_error(exc, param="tokens") from exc
    return {"prompt": data.decode("utf-8", "replace"), "bytes": list(data)}


def tokenizer_info(model: LanguageModel, template: Callable[[], ChatTemplate]) -> dict[str, Any]:
    """What clients ask of a tokenizer that they do not have themselves."""
    tokenizer = model.tokenizer
    try:
        source: str | None = template().source
    except InvalidInput:
        source = None

    def text(token_id: int | None) -> str | None:
        return None if token_id is None else tokenizer.token_string(token_id)

    return {
        "vocab_size": tokenizer.vocab_size,
        "max_model_len": model.n_positions,
        "model_max_length": model.n_positions,
        "bos_token": text(tokenizer.bos_id),
        "bos_token_id": tokenizer.bos_id,
        "eos_token": text(tokenizer.eos_id),
        "eos_token_id": tokenizer.eos_id,
        "pad_token": None,
        "add_bos_token": tokenizer.adds_bos,
        "special_tokens": {text(each): each for each in sorted(tokenizer.special_ids)},
        "chat_template": source,
    }

"""Prompts that are more than a text: a conversation, and what stands before and after a gap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcli.errors import InvalidInput

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel
    from llmcli.tasks.chat import Message
    from llmcli.tokenization.tokenizer import SpecialTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyPrompt:
    """A prompt as the model reads it.

    Attributes:
        ids: Token ids.
        text: What is shown of it, and told again by ``--echo``.
        stops: Texts that end what follows.
        eos_ids: Tokens that end what follows, beside the model's own.
    """

    ids: tuple[int, ...]
    text: str = ""
    stops: tuple[str, ...] = ()
    eos_ids: tuple[int, ...] = ()


def conversation_prompt(
    model: LanguageModel, messages: Sequence[Message], *, special: SpecialTokens = "text"
) -> ReadyPrompt:
    """Messages, written by the model's own chat template, and the answer begun.

    Raises:
        InvalidInput: the model has no chat template, or it refuses the messages; the last
            message is the assistant's.
        CorruptModel: the template fails.
    """
    from llmcli.tokenization.chat import chat_template

    _check_kind(model, "Messages")
    if messages[-1].role != "user":
        raise InvalidInput(
            f"The last message is the {messages[-1].role}'s, so there is nothing to answer.",
            "End with a message of the user's.",
        )
    template = chat_template(model.tokenizer)
    if template is None:
        raise InvalidInput(
            f"{model.name} has no chat template, so it was not made for dialogue.",
            "Give it a plain prompt, or talk with it by 'llmcli chat --template NAME'.",
        )
    ids = template.encode(
        model.tokenizer, [message.to_dict() for message in messages], special=special
    )
    return ReadyPrompt(ids=tuple(ids), stops=template.stops)


def infill_prompt(
    model: LanguageModel, prefix: str, suffix: str, *, special: SpecialTokens = "text"
) -> ReadyPrompt:
    """What stands before and after a gap, for a model that fills it.

    Raises:
        UnsupportedModel: its tokenizer has no tokens for that.
    """
    from llmcli.tokenization.infill import infill_of

    _check_kind(model, "A suffix")
    found = infill_of(model.tokenizer, prefix, suffix, name=model.name, special=special)
    return ReadyPrompt(ids=found.ids, text=prefix, eos_ids=found.eos_ids)


def _check_kind(model: LanguageModel, what: str) -> None:
    if model.kind != "causal":
        raise InvalidInput(
            f"{what} cannot be given to {model.name}, which answers a text.",
            "Use a model that continues texts.",
        )

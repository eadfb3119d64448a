"""A conversation whose answers come from a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcli.tasks.chat import Dialogue, Message
from llmcli.tasks.remote import Client, RemoteModel

if TYPE_CHECKING:
    from llmcli.engine.params import TokenEvent
    from llmcli.tasks.provenance import Described

# Settings that go with every request; the others are the server's model's own.
_SENT = (
    *("temperature", "top_k", "top_p", "min_p", "typical_p", "top_h", "epsilon_cutoff"),
    *("eta_cutoff", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("no_repeat_ngram_size", "max_new_tokens", "min_new_tokens", "seed"),
)


@dataclass(kw_only=True)
class RemoteConversation(Dialogue):
    """Messages, and a server that answers them.

    Attributes:
        client: Speaks to it.
        model: Its model.
        limit: The most tokens that the model looks at.
        logit_bias: Biases by token ids, for the request.
    """

    client: Client
    model: RemoteModel
    limit: int
    logit_bias: dict[str, float]

    @property
    def source(self) -> Described:
        """The model that answers."""
        return self.model

    @property
    def template_name(self) -> str:
        """What says how messages are written."""
        return "the server's"

    @property
    def context(self) -> int:
        """The most tokens that the model looks at."""
        return self.limit

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """Messages as the server's model reads them, the assistant's turn begun."""
        asked = {"messages": [message.to_dict() for message in messages]}
        ids: list[int] = self.client.post("/tokenize", asked)["tokens"]
        return ids

    def events(
        self, messages: Sequence[Message], ids: Sequence[int], should_stop: Callable[[], bool]
    ) -> Iterator[TokenEvent]:
        """An answer to messages."""
        given = {name: getattr(self.params, name) for name in _SENT}
        return self.client.answer(
            [message.to_dict() for message in messages],
            {**given, "logit_bias": self.logit_bias, "record": self.turns},
            should_stop=should_stop,
        ).continuation.events

    def forget(self) -> None:
        """Nothing is kept here; the server keeps what it has read."""

"""A conversation with a model: messages in, an answer out, and what a person does to both."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli.errors import ContextOverflow, InvalidInput
from llmcli.io.files import atomic_write
from llmcli.tokenization.chat import ChatTemplate, chat_template, named_template

if TYPE_CHECKING:
    from llmcli.engine.params import SamplingParams, TokenEvent
    from llmcli.engine.scheduler import Scheduler
    from llmcli.models.language_model import LanguageModel
    from llmcli.tasks.provenance import Described
    from llmcli.tokenization.tokenizer import SpecialTokens

ROLES = ("system", "user", "assistant")
_LARGEST_FILE = 64 << 20


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    Attributes:
        role: "system", "user" or "assistant".
        content: What was said.
    """

    role: str
    content: str

    def to_dict(self) -> dict[str, str]:
        """The message as JSON has it."""
        return {"role": self.role, "content": self.content}


def read_messages(path: Path) -> list[Message]:
    """Read messages from a file: a JSON list, or an object a line.

    Raises:
        InvalidInput: it cannot be read, or is no list of messages; the message says where.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
        if len(data) > _LARGEST_FILE:
            raise InvalidInput(f"{path} is larger than {_LARGEST_FILE >> 20} MiB.")
        text = data.decode("utf-8")
    except OSError as exc:
        raise InvalidInput(f"Cannot read {path}: {exc.strerror}.", "Name another file.") from exc
    except UnicodeDecodeError as exc:
        raise InvalidInput(
            f"{path} is not valid UTF-8: byte 0x{data[exc.start]:02x} at offset {exc.start}.",
            "Convert it to UTF-8.",
        ) from exc
    return parse_messages(text, source=str(path))


def parse_messages(text: str, *, source: str) -> list[Message]:
    """Messages from JSON: a list, or an object a line.

    Raises:
        InvalidInput: it is something else; the message says where.
    """
    cure = 'Each message is {"role": "user", "content": "..."}.'
    try:
        if text.lstrip().startswith("["):
            values = json.loads(text)
        else:
            values = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"{source} holds no JSON messages: {exc}.", cure) from exc
    messages = []
    for number, value in enumerate(values, 1):
        role = value.get("role") if isinstance(value, dict) else None
        content = value.get("content") if isinstance(value, dict) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise InvalidInput(f"Message {number} of {source} has no role and content.", cure)
        messages.append(Message(role, content))
    check_messages(messages, source=source)
    return messages


def check_messages(messages: Sequence[Message], *, source: str) -> None:
    """Refuse messages that no conversation has.

    Raises:
        InvalidInput: an unknown role, an empty turn, a system message that is not the first.
    """
    for number, message in enumerate(messages, 1):
        if message.role not in ROLES:
            raise InvalidInput(
                f"Message {number} of {source} has the role {message.role!r}.",
                f"Use {', '.join(ROLES)}.",
            )
        if message.role == "system" and number > 1:
            raise InvalidInput(
                f"Message {number} of {source} is a second system message."
                if messages[0].role == "system"
                else f"Message {number} of {source} is a system message, and not the first.",
                "Give one, in front.",
            )
        if not message.content:
            raise InvalidInput(f"Message {number} of {source} is empty.", "Give some text.")


def save_messages(path: Path, messages: Sequence[Message]) -> None:
    """Write messages, an object a line, for `read_messages`.

    Raises:
        StorageError: the disk does not take it.
    """
    with atomic_write(path) as file:
        for message in messages:
            file.write((json.dumps(message.to_dict(), ensure_ascii=False) + "\n").encode())


def template_for(model: LanguageModel, name: str | None) -> ChatTemplate:
    """The template that was asked for, else the model's own.

    Raises:
        InvalidInput: there is none by that name, or the model has none.
    """
    if name is not None:
        return named_template(name, model.tokenizer)
    found = chat_template(model.tokenizer)
    if found is None:
        from llmcli.tokenization.chat import LAYOUTS

        raise InvalidInput(
            f"{model.name} has no chat template, so it was not made for dialogue.",
            f"Pass --template FILE, or one of {', '.join(LAYOUTS)}.",
        )
    return found


@dataclass(slots=True)
class Reply:
    """An answer, as far as it has come.

    Attributes:
        prompt_tokens: Tokens of the messages that were read.
        completion_tokens: Tokens of the answer.
        dropped_messages: How many of the oldest messages did not fit and were left out.
        text: What was said so far.
        finish_reason: How it ended; None while it goes on.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    dropped_messages: int = 0
    text: str = ""
    finish_reason: str | None = None


@dataclass(kw_only=True)
class Dialogue(ABC):
    """Messages, and who answers them.

    Attributes:
        params: How an answer's tokens are drawn.
        messages: The turns so far.
        turns: How many answers were begun.
    """

    params: SamplingParams
    messages: list[Message] = field(default_factory=list)
    turns: int = 0

    @property
    @abstractmethod
    def source(self) -> Described:
        """The model that answers."""

    @property
    @abstractmethod
    def template_name(self) -> str:
        """What says how messages are written."""

    @property
    @abstractmethod
    def context(self) -> int:
        """The most tokens that the model looks at."""

    @abstractmethod
    def ids(self, messages: Sequence[Message]) -> list[int]:
        """Messages as the model reads them, the assistant's turn begun.

        Raises:
            InvalidInput: the template refuses them.
            CorruptModel: the template fails.
        """

    @abstractmethod
    def events(
        self, messages: Sequence[Message], ids: Sequence[int], should_stop: Callable[[], bool]
    ) -> Iterator[TokenEvent]:
        """An answer to messages, whose ids are given; `turns` says which it is."""

    @property
    def system(self) -> str | None:
        """The system message."""
        first = self.messages[0] if self.messages else None
        return first.content if first is not None and first.role == "system" else None

    @system.setter
    def system(self, text: str | None) -> None:
        rest = self.messages[1:] if self.system is not None else self.messages
        self.messages = [*([Message("system", text)] if text else []), *rest]

    def fitted(self) -> tuple[list[Message], list[int], int]:
        """The messages that fit into the context, their ids, and how many were left out.

        The system message and the last one stay; of the others, whole turns go, the oldest
        first, until there is room for an answer.

        Raises:
            ContextOverflow: what must stay does not fit.
        """
        start = 1 if self.system is not None else 0
        head, turns = self.messages[:start], self.messages[start:]
        context = self.context
        wanted = self.params.max_new_tokens or context // 4
        room = max(1, min(wanted, context // 2))
        if (grammar := self.params.grammar) is not None:
            grammar.check_room(min(self.params.max_new_tokens or context, context))
            room = max(room, grammar.shortest(room))
        dropped = 0
        while True:
            kept = [*head, *turns[dropped:]]
            ids = self.ids(kept)
            if len(ids) + room <= context:
                return kept, ids, dropped
            later = next(
                (n for n in range(dropped + 1, len(turns)) if turns[n].role == "user"), None
            )
            if later is None:
                if len(ids) < context:
                    return kept, ids, dropped
                raise ContextOverflow(
                    f"The messages that must stay have {len(ids)} tokens; the context holds "
                    f"{context}.",
                    "Shorten the last message, or the system message.",
                )
            dropped = later

    def say(self, text: str) -> None:
        """Add a message of the user's.

        Raises:
            InvalidInput: it is empty.
        """
        if not text.strip():
            raise InvalidInput("The message is empty.", "Say something.")
        self.messages.append(Message("user", text))

    def answer(self, reply: Reply, should_stop: Callable[[], bool] = bool) -> Iterator[TokenEvent]:
        """Let the model answer; the answer is a message as soon as it has any text.

        Args:
            reply: Filled in as the answer comes.
            should_stop: Asked once a token; what was said until then stays.

        Raises:
            InvalidInput, CorruptModel: see `ids`.
            ContextOverflow: see `fitted`.
            NumericalError: the logits are NaN or infinite.
        """
        messages, ids, reply.dropped_messages = self.fitted()
        reply.prompt_tokens = len(ids)
        begun = False
        try:
            for told in self.events(messages, ids, should_stop):
                reply.text += told.text
                reply.completion_tokens += told.token_id is not None
                reply.finish_reason = told.finish_reason
                if reply.text:
                    if begun:
                        self.messages.pop()
                    self.messages.append(Message("assistant", reply.text))
                    begun = True
                yield told
        except BaseException:
            # The loop was left in the middle of a token: nothing that it holds is known.
            self.forget()
            raise
        finally:
            self.turns += 1

    def undo(self) -> Message | None:
        """Take back the last thing the user said, and the answer to it; returns it."""
        while self.messages and self.messages[-1].role != "system":
            last = self.messages.pop()
            if last.role == "user":
                return last
        return None

    def take_back_answer(self) -> bool:
        """Take back the last answer, so that another can be given; whether there was one."""
        if self.messages and self.messages[-1].role == "assistant":
            self.messages.pop()
        return bool(self.messages) and self.messages[-1].role == "user"

    @abstractmethod
    def forget(self) -> None:
        """Give back what was kept for the next answer."""


@dataclass(kw_only=True)
class Conversation(Dialogue):
    """Messages, and a model here that answers them.

    What one answer read is kept for the next, which then reads its own tokens alone.

    Attributes:
        model: Who answers.
        template: How messages are written for it.
        special: What control tokens in a message are.
    """

    model: LanguageModel
    template: ChatTemplate
    special: SpecialTokens = "text"
    _scheduler: Scheduler | None = None

    @property
    def source(self) -> Described:
        """The model that answers."""
        return self.model

    @property
    def template_name(self) -> str:
        """What says how messages are written."""
        return self.template.name

    @property
    def context(self) -> int:
        """The most tokens that the model looks at."""
        return self.model.n_positions

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """Messages as the model reads them, the assistant's turn begun."""
        return self.template.encode(
            self.model.tokenizer,
            [message.to_dict() for message in messages],
            special=self.special,
        )

    def events(
        self, messages: Sequence[Message], ids: Sequence[int], should_stop: Callable[[], bool]
    ) -> Iterator[TokenEvent]:
        """An answer to messages."""
        from llmcli.engine.in_order import in_order
        from llmcli.engine.params import TokenEvent
        from llmcli.engine.scheduler import Request
        from llmcli.engine.transcript import Prompt
        from llmcli.tasks.prompts import for_prompt, with_stops

        params = with_stops(for_prompt(self.params, len(ids)), self.template.stops)
        request = Request(prompt=Prompt(ids=tuple(ids)), params=params, record=self.turns)
        for _, told in in_order(self._over(), iter([request]), should_stop):
            if not isinstance(told, TokenEvent):
                raise told
            yield told

    def forget(self) -> None:
        """Give back what was kept for the next answer."""
        if self._scheduler is not None:
            self._scheduler.close()
            self._scheduler = None

    def _over(self) -> Scheduler:
        from llmcli.engine.scheduler import Scheduler

        if self._scheduler is None:
            self._scheduler = Scheduler(
                self.model.decoder(),
                token_bytes=self.model.token_bytes,
                eos_ids=self.model.eos_ids,
                share_prefixes=True,
            )
        return self._scheduler


def reply_record(
    conversation: Dialogue, reply: Reply, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """An answer, ready for JSON."""
    return {
        "role": "assistant",
        "content": reply.text,
        "finish_reason": reply.finish_reason,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "dropped_messages": reply.dropped_messages,
        "template": conversation.template_name,
        "seed": conversation.params.seed,
        **provenance,
    }

"""From a job's news to what a client reads: whole, or chunk by chunk."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llmcli.engine.params import TokenEvent
from llmcli.serve.engine import News
from llmcli.serve.errors import api_error
from llmcli.serve.logprobs import (
    TokenBytes,
    TokensOfText,
    ToldToken,
    chat_logprobs,
    completion_logprobs,
    event_record,
    tokens_of_prompt,
)
from llmcli.serve.plan import Plan, PlannedPrompt
from llmcli.tasks.provenance import settings_record

# The API knows of two ends that are no failure.
_REASONS = {"eos": "stop", "stop": "stop", "grammar": "stop"}
_REASONS |= {"length": "length", "context": "length"}


@dataclass(slots=True, kw_only=True)
class Choice:
    """One answer to one prompt, as far as it has come.

    Attributes:
        index: Its number among the answers.
        planned: The prompt.
        text: What it says.
        told: Its tokens, where log-probabilities were asked for.
        prompt: The prompt's tokens, with ``echo``.
        events: Its steps, where they are told in full.
        completion_tokens: How many tokens were made.
        logprob: Their log-probabilities' sum.
        finish_reason: How it ended.
    """

    index: int
    planned: PlannedPrompt
    text: str = ""
    told: list[ToldToken] = field(default_factory=list)
    prompt: list[ToldToken] | None = None
    events: list[TokenEvent] = field(default_factory=list)
    completion_tokens: int = 0
    logprob: float = 0.0
    finish_reason: str | None = None
    _tokens: TokensOfText = field(init=False)

    def __post_init__(self) -> None:
        self._tokens = TokensOfText(self.planned.prompt.healed)

    def take(self, event: TokenEvent) -> list[ToldToken]:
        """Take a step; the tokens that it makes certain."""
        if event.token_id is not None:
            self.completion_tokens += 1
            self.logprob += event.logprob or 0.0
        self.text += event.text
        self.finish_reason = finish_reason(event)
        return self._tokens.take(event)

    @property
    def mean_logprob(self) -> float:
        """By which the best of several is found."""
        return self.logprob / max(1, self.completion_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a choice's next chunk tells; ``made`` counts the answer's tokens by then."""

    choice: Choice
    text: str
    tokens: list[ToldToken]
    event: TokenEvent
    first: bool
    made: int

    @property
    def finish_reason(self) -> str | None:
        """How the choice ended, in the chunk that it ended with."""
        return finish_reason(self.event)


def finish_reason(event: TokenEvent) -> str | None:
    """How a text ended, in the API's words; None where it goes on."""
    return None if event.finish_reason is None else _REASONS[event.finish_reason]


class Face(Protocol):
    """How one of the API's routes words an answer."""

    @property
    def prefix(self) -> str:
        """What an answer's id begins with."""
        ...

    @property
    def whole_object(self) -> str:
        """What a whole answer is called."""
        ...

    @property
    def chunk_object(self) -> str:
        """What a chunk is called."""
        ...

    def chunk(self, step: Step) -> dict[str, Any]:
        """A choice of a chunk."""
        ...

    def whole(self, choice: Choice) -> dict[str, Any]:
        """A choice of a whole answer."""
        ...


@dataclass(kw_only=True)
class Answer:
    """An answer under way.

    Attributes:
        plan: What was asked.
        face: How it is worded.
        model: The model's name.
        fingerprint: Of all that the answer depends on beside the request.
        token_bytes: The exact bytes of a token.
        about: Where the model is from, as `provenance` tells it.
        drops_space: Whether a text begins without its first token's space.
        cached_tokens: Prompt tokens that were not read anew.
        choices: What was made so far.
        id: A name of its own.
    """

    plan: Plan
    face: Face
    model: str
    fingerprint: str
    token_bytes: TokenBytes
    about: Mapping[str, Any]
    drops_space: bool = False
    cached_tokens: int = 0
    choices: list[Choice] = field(init=False)
    id: str = field(init=False)

    def __post_init__(self) -> None:
        plan = self.plan
        self.choices = [
            Choice(index=prompt * plan.best_of + index, planned=planned)
            for prompt, planned in enumerate(plan.prompts)
            for index in range(plan.best_of)
        ]
        self._told = False
        self.id = f"{self.face.prefix}-{secrets.token_hex(12)}"
        self._common = {
            "id": self.id,
            "created": int(time.time()),
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "seed": plan.params.seed,
        }

    @property
    def finished(self) -> bool:
        """Whether all choices are."""
        return all(each.finish_reason is not None for each in self.choices)

    @property
    def completion_tokens(self) -> int:
        """Tokens made, those of choices that are not told included."""
        return sum(each.completion_tokens for each in self.choices)

    def take(self, news: Iterable[News]) -> list[Step]:
        """Take what came.

        Raises:
            ApiError: a sequence cannot go on.
        """
        steps = []
        for each in news:
            choice = self.choices[each.place]
            if each.error is not None:
                raise api_error(each.error)
            if each.prompt:
                self._take_prompt(choice, each)
            if each.event is None:
                continue
            first = not choice.completion_tokens
            tokens = choice.take(each.event)
            if self.plan.stream:
                steps.append(
                    Step(
                        choice=choice,
                        text=each.event.text,
                        tokens=tokens,
                        event=each.event,
                        first=first,
                        made=self.completion_tokens,
                    )
                )
                continue
            if self.plan.logprobs is not None:
                choice.told += tokens
            if self.plan.token_events:
                choice.events.append(each.event)
        return steps

    def _take_prompt(self, choice: Choice, news: News) -> None:
        """A prompt's tokens are the same for all choices."""
        first = choice.index - choice.index % self.plan.best_of
        told = tokens_of_prompt(
            news.prompt,
            self.token_bytes,
            unseen=choice.planned.unseen,
            drops_space=self.drops_space,
        )
        for each in self.choices[first : first + self.plan.best_of]:
            each.prompt = told

    # -- a whole answer ----------------------------------------------------------------------

    def whole(self) -> dict[str, Any]:
        """The answer, when it is finished."""
        return {
            **self._common,
            "object": self.face.whole_object,
            "choices": [self.face.whole(each) for each in self._best()],
            "usage": self.usage(),
        }

    def _best(self) -> list[Choice]:
        """The choices that are told, numbered anew where some are not."""
        n, of = self.plan.n, self.plan.best_of
        if n == of:
            return self.choices
        best = []
        for start in range(0, len(self.choices), of):
            group = self.choices[start : start + of]
            best += sorted(group, key=lambda each: -each.mean_logprob)[:n]
        for index, each in enumerate(best):
            each.index = index
        return best

    def usage(self, completion: int | None = None) -> dict[str, Any]:
        """Tokens of prompts and answers; ``completion`` where it is not the whole answer's."""
        prompt = self.plan.prompt_tokens
        completion = self.completion_tokens if completion is None else completion
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    # -- a stream ----------------------------------------------------------------------------

    def chunk(self, step: Step) -> dict[str, Any] | None:
        """A chunk of a stream; None where there is nothing to tell yet."""
        if not self._is_told(step):
            return None
        chunk = {
            **self._common,
            "object": self.face.chunk_object,
            "choices": [self.face.chunk(step)],
        }
        if self.plan.include_usage:
            chunk["usage"] = self.usage(step.made) if self.plan.continuous_usage else None
        if self.plan.token_events and not self._told:
            self._told = True
            chunk["llmcli"] = self._all_that_made_it()
        return chunk

    def _all_that_made_it(self) -> dict[str, Any]:
        """What a client of ours makes its own records of."""
        plan = self.plan
        return {
            "model": self.about,
            "sampling": settings_record(plan.params),
            "n": plan.n,
            "prompt_tokens": plan.prompt_tokens,
            "dropped_tokens": sum(each.prompt.dropped_tokens for each in plan.prompts),
        }

    def _is_told(self, step: Step) -> bool:
        finished = step.event.finish_reason is not None
        return bool(step.text or step.tokens or step.first or finished or self.plan.token_events)

    def last_chunk(self) -> dict[str, Any]:
        """What a stream used."""
        return {
            **self._common,
            "object": self.face.chunk_object,
            "choices": [],
            "usage": self.usage(),
        }


@dataclass(frozen=True, kw_only=True)
class CompletionFace:
    """How ``/v1/completions`` words an answer."""

    plan: Plan
    token_bytes: TokenBytes
    prefix: str = "cmpl"
    whole_object: str = "text_completion"
    chunk_object: str = "text_completion"

    def chunk(self, step: Step) -> dict[str, Any]:
        """A choice of a chunk; the first one has the prompt, where that is echoed."""
        choice, plan = step.choice, self.plan
        echo = plan.echo and step.first
        told = {
            "index": choice.index,
            "text": choice.planned.text + step.text if echo else step.text,
            "logprobs": self._logprobs(choice, step.tokens, echo=echo),
            "finish_reason": step.finish_reason,
        }
        if plan.token_events:
            told["token_events"] = [event_record(step.event, self.token_bytes)]
        return told

    def whole(self, choice: Choice) -> dict[str, Any]:
        """A choice of a whole answer."""
        plan = self.plan
        told = {
            "index": choice.index,
            "text": choice.planned.text + choice.text if plan.echo else choice.text,
            "logprobs": self._logprobs(choice, choice.told, echo=plan.echo),
            "finish_reason": choice.finish_reason,
        }
        if plan.token_events:
            told["token_events"] = [event_record(each, self.token_bytes) for each in choice.events]
        return told

    def _logprobs(
        self, choice: Choice, tokens: Sequence[ToldToken], *, echo: bool
    ) -> dict[str, Any] | None:
        if self.plan.logprobs is None:
            return None
        offset = len(choice.planned.text) if self.plan.echo else 0
        made = completion_logprobs(tokens, self.token_bytes, offset=offset)
        if echo and choice.prompt:
            prompt = completion_logprobs(choice.prompt, self.token_bytes, offset=0)
            return {name: prompt[name] + made[name] for name in made}
        return made


@dataclass(frozen=True, kw_only=True)
class ChatFace:
    """How ``/v1/chat/completions`` words an answer."""

    plan: Plan
    token_bytes: TokenBytes
    prefix: str = "chatcmpl"
    whole_object: str = "chat.completion"
    chunk_object: str = "chat.completion.chunk"

    def chunk(self, step: Step) -> dict[str, Any]:
        """A choice of a chunk; the first one says who speaks."""
        role = {"role": "assistant"} if step.first else {}
        told = {
            "index": step.choice.index,
            "delta": {**role, "content": step.text},
            "logprobs": self._logprobs(step.tokens),
            "finish_reason": step.finish_reason,
        }
        if self.plan.token_events:
            told["token_events"] = [event_record(step.event, self.token_bytes)]
        return told

    def whole(self, choice: Choice) -> dict[str, Any]:
        """A choice of a whole answer."""
        told = {
            "index": choice.index,
            "message": {
                "role": "assistant",
                "content": choice.text,
                "refusal": None,
                "annotations": [],
            },
            "logprobs": self._logprobs(choice.told),
            "finish_reason": choice.finish_reason,
        }
        if self.plan.token_events:
            told["token_events"] = [event_record(each, self.token_bytes) for each in choice.events]
        return told

    def _logprobs(self, tokens: Sequence[ToldToken]) -> dict[str, Any] | None:
        if self.plan.logprobs is None:
            return None
        return chat_logprobs(tokens, self.token_bytes)

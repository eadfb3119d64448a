"""A finished continuation, with everything that made it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmcli.engine.params import SamplingParams, TokenEvent
from llmcli.tasks.notebook import html_table
from llmcli.tasks.provenance import Described, provenance, settings_record


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateAnswer:
    """A finished continuation, with everything that made it.

    Attributes:
        index: Which of the prompt's it is.
        text: The continuation, behind the prompt where that was asked for.
        finish_reason: Why it ended.
        stop: The stop text that ended it.
        prompt_tokens: How many tokens the prompt has, before anything was dropped.
        completion_tokens: How many were drawn.
        dropped_tokens: How many of the prompt's were dropped to make room.
        seed: What makes it repeatable.
        model: Where the model is from, as `provenance` tells it.
        sampling: The settings, as `settings_record` tells them.
        tokens: The tokens with their log-probabilities; None where nobody asked.
    """

    index: int
    text: str
    finish_reason: str | None
    stop: str | None
    prompt_tokens: int
    completion_tokens: int
    dropped_tokens: int
    seed: int | None
    model: dict[str, Any]
    sampling: dict[str, Any]
    tokens: list[dict[str, Any]] | None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "index": self.index,
            "text": self.text,
            "finish_reason": self.finish_reason,
            "stop": self.stop,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "dropped_tokens": self.dropped_tokens,
            "seed": self.seed,
            **self.model,
            "sampling": self.sampling,
            **({} if self.tokens is None else {"tokens": self.tokens}),
        }

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        if self.tokens is None:
            return html_table(["text", "ended by"], [[self.text, self.finish_reason]])
        rows = [[each["token"], math.exp(each["logprob"]), each["logprob"]] for each in self.tokens]
        return html_table(["token", "probability", "logprob"], rows)


def generate_answer(
    model: Described,
    params: SamplingParams,
    prompt: str,
    prompt_tokens: int,
    events: Sequence[TokenEvent],
    *,
    echo: bool = False,
) -> GenerateAnswer:
    """Gather the events of one continuation; ``echo`` puts the prompt before the text."""
    drawn = [each for each in events if each.token_id is not None]
    text = "".join(each.text for each in events)
    last = events[-1]
    return GenerateAnswer(
        index=last.index,
        text=prompt + text if echo else text,
        finish_reason=last.finish_reason,
        stop=last.stop,
        prompt_tokens=prompt_tokens,
        completion_tokens=len(drawn),
        dropped_tokens=last.dropped_tokens,
        seed=params.seed,
        model=provenance(model),
        sampling=settings_record(params),
        tokens=None if params.logprobs is None else [_token_record(model, each) for each in drawn],
    )


def _token_record(model: Described, event: TokenEvent) -> dict[str, Any]:
    assert event.token_id is not None  # only drawn tokens come here
    return {
        **_spelling(event.token_id, event.token_bytes),
        "logprob": event.logprob,
        "sampled_logprob": event.sampled_logprob,
        **({} if event.allowed_mass is None else {"allowed_mass": event.allowed_mass}),
        "top": [
            {**_spelling(top.id, model.token_bytes(top.id)), "logprob": top.logprob}
            for top in event.top
        ],
    }


def _spelling(token_id: int, data: bytes) -> dict[str, Any]:
    return {"id": token_id, "token": data.decode("utf-8", "replace"), "bytes": list(data)}

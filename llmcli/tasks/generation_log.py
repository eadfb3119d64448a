"""Generations on their way into the log, and out of it again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmcli.engine.params import SamplingParams, TokenEvent
from llmcli.errors import GateFailed, InvalidInput
from llmcli.tasks.generate_answer import generate_answer
from llmcli.tasks.provenance import params_of

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel

# How a prompt was read, beside the settings.
READING = ("bos", "heal", "special")


def logged(
    events: Iterable[TokenEvent],
    keep: Callable[[dict[str, Any]], object],
    *,
    model: LanguageModel,
    params: SamplingParams,
    prompt: str,
    prompt_tokens: int,
    reading: dict[str, Any],
) -> Iterator[TokenEvent]:
    """Pass events on, and keep a record of each continuation that is finished.

    Args:
        events: What the engine tells.
        keep: Gets the records.
        model: What continues.
        params: The settings.
        prompt: The text.
        prompt_tokens: How many tokens it has.
        reading: ``bos``, ``heal``, ``special`` and ``context`` as the prompt was read.
    """
    collected: list[TokenEvent] = []
    for event in events:
        collected.append(event)
        if event.finish_reason is not None:
            answer = generate_answer(model, params, prompt, prompt_tokens, collected)
            drawn = [each.token_id for each in collected if each.token_id is not None]
            keep({"prompt": prompt, **answer.to_dict(), "token_ids": drawn, "reading": reading})
            collected.clear()
        yield event


def replay(model: LanguageModel, record: dict[str, Any]) -> int:
    """Generate again what a record of the log tells of; returns how many tokens are the same.

    Raises:
        InvalidInput: the record is none of the log's.
        GateFailed: a token differs.
    """
    from llmcli.tasks.generate import continue_text

    try:
        prompt, expected, index = record["prompt"], record["token_ids"], record["index"]
        params = replace(params_of(record["sampling"]), seed=record["seed"])
        reading = {name: record["reading"][name] for name in READING}
        context = record["reading"]["context"]
    except (KeyError, TypeError) as exc:
        raise InvalidInput(
            f"The record has no {str(exc).strip(chr(39))}: it is none of the log's.",
            "Take one of 'llmcli log show ID --json'.",
        ) from exc
    if context is not None:
        model.limit_context(context)
    place = 0
    for event in continue_text(model, prompt, params, **reading).events:
        if event.index != index or event.token_id is None:
            continue
        if place >= len(expected) or event.token_id != expected[place]:
            raise GateFailed(_difference(model, place, event.token_id, expected[place:]))
        place += 1
        if place == len(expected):
            break  # one that was interrupted went no further
    if place < len(expected):
        raise GateFailed(f"The text ends after {place} tokens; it had {len(expected)}.")
    return place


def _difference(model: LanguageModel, place: int, now: int, before: list[int]) -> str:
    def shown(token: int) -> str:
        return f"{model.token_bytes(token).decode('utf-8', 'replace')!r} ({token})"

    was = f"was {shown(before[0])}" if before else "was not there"
    return f"Token {place + 1} is {shown(now)} now, and {was}."

"""Log-probabilities as the OpenAI API tells them, with every token's exact bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from llmcli.engine.params import TokenEvent, TopToken
from llmcli.engine.prompt_scores import PromptToken
from llmcli.tokenization.stream import StreamDecoder

TokenBytes = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class ToldToken:
    """A token of a text.

    Attributes:
        id: The token.
        data: Its bytes.
        begin: How many characters of the text were complete before it.
        logprob: Natural log of its probability; None for a text's first token.
        sampled_logprob: The same in the distribution drawn from.
        top: The most likely ones in its place.
    """

    id: int
    data: bytes
    begin: int
    logprob: float | None
    sampled_logprob: float | None
    top: tuple[TopToken, ...]


class TokensOfText:
    """Gives out a continuation's tokens as their text becomes certain, and no other.

    So what is held back as the possible start of a stop string is not told by its tokens, and
    neither is the stop string, nor the token that ends a text.

    Args:
        healed: Bytes that the first token repeats of the prompt.
    """

    def __init__(self, healed: bytes = b"") -> None:
        self._decoder = StreamDecoder()
        self._healed = healed
        self._complete = self._emitted = 0
        self._held: list[ToldToken] = []

    def take(self, event: TokenEvent) -> list[ToldToken]:
        """Take a step; the tokens that it makes certain."""
        if event.token_id is not None and event.finish_reason != "eos":
            data = event.token_bytes.removeprefix(self._healed)
            self._healed = b""
            self._held.append(
                ToldToken(
                    event.token_id,
                    data,
                    self._complete,
                    event.logprob,
                    event.sampled_logprob,
                    event.top,
                )
            )
            self._complete += len(self._decoder.push(data))
        self._emitted += len(event.text)
        if event.finish_reason not in (None, "stop"):
            told, self._held = self._held, []
            return told
        told = [each for each in self._held if each.begin < self._emitted]
        self._held = self._held[len(told) :]
        return told


def tokens_of_prompt(
    prompt: Iterable[PromptToken], token_bytes: TokenBytes, *, unseen: int, drops_space: bool
) -> list[ToldToken]:
    """A prompt's tokens with their places in its text.

    Args:
        prompt: The tokens.
        token_bytes: The exact bytes of a token.
        unseen: How many of the first ones are not in the text.
        drops_space: Whether the text begins without the space that its first token has.
    """
    decoder = StreamDecoder()
    told, complete = [], 0
    for place, each in enumerate(prompt):
        data = token_bytes(each.id)
        if place == unseen and drops_space:
            data = data.removeprefix(b" ")
        told.append(ToldToken(each.id, data, complete, each.logprob, None, each.top))
        complete += len(decoder.push(data)) if place >= unseen else 0
    return told


def spelling(data: bytes) -> str:
    """A token's text; what is no UTF-8 is spelt ``bytes:\\x..``."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def completion_logprobs(
    tokens: Sequence[ToldToken], token_bytes: TokenBytes, *, offset: int
) -> dict[str, Any]:
    """What ``/v1/completions`` tells of tokens.

    Args:
        tokens: Whose.
        token_bytes: The exact bytes of a token.
        offset: Where in the text told to the client the tokens' own text begins, in characters.
    """
    return {
        "tokens": [spelling(each.data) for each in tokens],
        "token_logprobs": [each.logprob for each in tokens],
        "top_logprobs": [
            None if each.logprob is None else _alternatives(each, each.logprob, token_bytes)
            for each in tokens
        ],
        "text_offset": [offset + each.begin for each in tokens],
        # Beside what the OpenAI API has.
        "token_ids": [each.id for each in tokens],
        "bytes": [list(each.data) for each in tokens],
    }


def _alternatives(token: ToldToken, logprob: float, token_bytes: TokenBytes) -> dict[str, float]:
    """The likeliest tokens by their texts, and the token itself; two never share a key."""
    found: dict[str, float] = {}
    for each in token.top:
        data = token.data if each.id == token.id else token_bytes(each.id)
        found[_free_key(found, data, each.id)] = each.logprob
    if all(each.id != token.id for each in token.top):
        found[_free_key(found, token.data, token.id)] = logprob
    return found


def _free_key(taken: dict[str, float], data: bytes, token_id: int) -> str:
    key = spelling(data)
    return key if key not in taken else f"token_id:{token_id}"


def chat_logprobs(tokens: Sequence[ToldToken], token_bytes: TokenBytes) -> dict[str, Any]:
    """What ``/v1/chat/completions`` tells of tokens."""
    return {
        "content": [
            {
                **_spelt(each.data),
                "logprob": each.logprob,
                "top_logprobs": [
                    {**_spelt(token_bytes(top.id)), "logprob": top.logprob} for top in each.top
                ],
            }
            for each in tokens
        ],
        "refusal": None,
    }


def _spelt(data: bytes) -> dict[str, Any]:
    return {"token": spelling(data), "bytes": list(data)}


def event_record(event: TokenEvent, token_bytes: TokenBytes) -> dict[str, Any]:
    """A step in full, so that a client of ours can make the event of it."""
    return {
        "index": event.index,
        "text": event.text,
        "token_id": event.token_id,
        "bytes": list(event.token_bytes),
        "logprob": event.logprob,
        "sampled_logprob": event.sampled_logprob,
        "top": [
            {"id": top.id, "bytes": list(token_bytes(top.id)), "logprob": top.logprob}
            for top in event.top
        ],
        "finish_reason": event.finish_reason,
        "stop": event.stop,
        "dropped_tokens": event.dropped_tokens,
        "allowed_mass": event.allowed_mass,
    }

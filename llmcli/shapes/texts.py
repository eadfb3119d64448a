"""What generate, chat, next, fill, encode and decode print."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from llmcli.shapes.common import Token, TopToken


class GeneratedToken(Token):
    """A token that was drawn.

    Attributes:
        logprob: Natural log of the model's own probability.
        sampled_logprob: Of the distribution that was drawn from.
        allowed_mass: How much of the model's probability a grammar allowed.
        top: The likeliest tokens there.
    """

    logprob: float
    sampled_logprob: float
    allowed_mass: NotRequired[float]
    top: list[TopToken]


class Generated(TypedDict):
    """A continuation.

    Attributes:
        index: Its number among ``--num-return-sequences``.
        finish_reason: What ended it.
        stop: The stop text that did.
        dropped_tokens: Tokens of the prompt that did not fit.
    """

    index: int
    text: str
    finish_reason: Literal["eos", "stop", "length", "context", "grammar", "interrupted"] | None
    stop: str | None
    prompt_tokens: int
    completion_tokens: int
    dropped_tokens: int
    seed: int | None
    tokens: NotRequired[list[GeneratedToken]]


class Reply(TypedDict):
    """An answer of ``chat``.

    Attributes:
        dropped_messages: Messages that did not fit the context any more.
        template: How the messages were written for the model.
    """

    role: Literal["assistant"]
    content: str
    finish_reason: Literal["eos", "stop", "length", "context", "grammar", "interrupted"] | None
    prompt_tokens: int
    completion_tokens: int
    dropped_messages: int
    template: str
    seed: int | None


class Candidate(Token):
    """A token that may come next.

    Attributes:
        probability: The model's own.
        logprob: Its natural log.
        sampled_probability: In the distribution that is drawn from; 0 where it is filtered out.
        sampled_logprob: Its natural log; null for 0.
    """

    probability: float
    logprob: float
    sampled_probability: float
    sampled_logprob: float | None


class Gap(TypedDict):
    """A place to be filled, and what may stand there."""

    position: int
    entropy: float
    candidates: list[GapCandidate]


class GapCandidate(TopToken):
    """A token that may fill a gap.

    Attributes:
        probability: The model's own.
    """

    probability: float


class Filled(TypedDict):
    """What ``fill`` found."""

    text: str
    gaps: list[Gap]
    tokens: int


class Encoded(TypedDict):
    """A text's tokens.

    Attributes:
        tokens: Their texts.
        bytes: In hexadecimal, of those that are no text of their own; null for the others.
        offsets: Where each begins and ends in the text, in characters.
        byte_offsets: The same in bytes of UTF-8.
    """

    ids: list[int]
    tokens: list[str]
    bytes: list[str | None]
    offsets: list[tuple[int, int]]
    byte_offsets: list[tuple[int, int]]
    count: int


class Counted(TypedDict):
    """How many tokens a text has."""

    count: int


class Truncated(TypedDict):
    """A text cut to a number of tokens.

    Attributes:
        truncated: Whether anything was cut off.
    """

    text: str
    truncated: bool


class Chunk(TypedDict):
    """A part of a text: its text, or the file that has it."""

    index: int
    text: NotRequired[str]
    output: NotRequired[str]
    count: int
    offsets: tuple[int, int]
    byte_offsets: tuple[int, int]


class Fits(TypedDict):
    """Whether a text has at most so many tokens."""

    count: int
    max_tokens: int
    fits: bool


class Compared(TypedDict):
    """What one of several tokenizers makes of a text."""

    count: int
    bytes: int
    tokens_per_byte: float
    vocab_size: int


class IdFile(TypedDict):
    """A file of ids that was written."""

    output: str
    count: int
    dtype: str


class Decoded(TypedDict):
    """Text.

    Attributes:
        bytes: Its bytes in hexadecimal, where the text does not say them.
    """

    text: str
    bytes: NotRequired[str]

"""How to sample, and what comes out: plain data that checks itself (standard library only)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, get_args

from llmcli.errors import InvalidInput

if TYPE_CHECKING:
    from llmcli.engine.grammar.constraint import Grammar

EarlyStopping = bool | Literal["never"]
FinishReason = Literal["eos", "stop", "length", "context", "grammar", "interrupted"]
Overflow = Literal["error", "left", "middle", "slide"]

MAX_SEED = 2**63 - 1

_WHOLE = (
    "max_new_tokens",
    "max_length",
    "min_length",
    "min_new_tokens",
    "top_k",
    "no_repeat_ngram_size",
    "num_return_sequences",
    "num_beams",
    "seed",
    "logprobs",
)

# name -> (test, the range in words); NaN fails every comparison, so every test is written to
# hold only for values inside the range.
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "max_new_tokens": (lambda v: v >= 1, "a whole number of at least 1"),
    "min_new_tokens": (lambda v: v >= 0, "a whole number of at least 0"),
    "max_length": (lambda v: v >= 1, "a whole number of at least 1"),
    "min_length": (lambda v: v >= 0, "a whole number of at least 0"),
    "top_h": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
    "epsilon_cutoff": (lambda v: 0 <= v < 1, "from 0 to below 1 (0 is off)"),
    "eta_cutoff": (lambda v: 0 <= v < 1, "from 0 to below 1 (0 is off)"),
    "length_penalty": (lambda v: -math.inf < v < math.inf, "a finite number (0 is off)"),
    "temperature": (lambda v: 0 <= v < math.inf, "a finite number of at least 0 (0 is greedy)"),
    "top_k": (lambda v: v >= 0, "a whole number of at least 0 (0 is off)"),
    "top_p": (lambda v: 0 < v <= 1, "above 0 and at most 1 (1 is off)"),
    "min_p": (lambda v: 0 <= v <= 1, "from 0 to 1 (0 is off)"),
    "typical_p": (lambda v: 0 < v <= 1, "above 0 and at most 1 (1 is off)"),
    "repetition_penalty": (lambda v: 0 < v < math.inf, "a finite number above 0 (1 is off)"),
    "presence_penalty": (lambda v: -math.inf < v < math.inf, "a finite number (0 is off)"),
    "frequency_penalty": (lambda v: -math.inf < v < math.inf, "a finite number (0 is off)"),
    "no_repeat_ngram_size": (lambda v: v >= 0, "a whole number of at least 0 (0 is off)"),
    "num_return_sequences": (lambda v: v >= 1, "a whole number of at least 1"),
    "num_beams": (lambda v: v >= 1, "a whole number of at least 1 (1 is off)"),
    "seed": (lambda v: 0 <= v <= MAX_SEED, f"a whole number from 0 to {MAX_SEED}"),
    "logprobs": (lambda v: v >= 0, "a whole number of at least 0"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Everything that shapes a continuation; names and meanings are transformers'.

    ``None`` for ``max_new_tokens`` means up to the end of the context; ``temperature`` 0 means
    greedy. ``logit_bias`` holds pairs of token id and the number added to that logit,
    ``sequence_bias`` the same for the last of several tokens where the others stand before it;
    ``bad_words_ids`` forbids it there. ``max_length`` and ``min_length`` count the prompt, too;
    ``max_length`` counts where ``max_new_tokens`` is None. ``length_penalty`` and
    ``early_stopping`` are beam search's. With a ``grammar`` the continuation is one of its texts.

    Raises:
        InvalidInput: a value is out of its range; the message names it and the range.
    """

    max_new_tokens: int | None = 100
    min_new_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_h: float | None = None
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_bos_token_id: tuple[int, ...] = ()
    forced_eos_token_id: tuple[int, ...] = ()
    exponential_decay_length_penalty: tuple[int, float] | None = None
    max_length: int | None = None
    min_length: int = 0
    stop: tuple[str, ...] = ()
    keep_stop: bool = False
    ignore_eos: bool = False
    num_return_sequences: int = 1
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False
    seed: int | None = None
    overflow: Overflow = "error"
    logprobs: int | None = None
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _RANGES and value is not None:
                check_range(field.name, value)
        if self.overflow not in get_args(Overflow):
            raise InvalidInput(
                f"overflow is {self.overflow!r}.", f"Use one of {', '.join(get_args(Overflow))}."
            )
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise InvalidInput(
                f"min_new_tokens ({self.min_new_tokens}) is above max_new_tokens "
                f"({self.max_new_tokens}).",
                "Raise max_new_tokens or lower min_new_tokens.",
            )
        if isinstance(self.stop, str):
            raise InvalidInput("stop is one string.", "Give a tuple of strings.")
        if any(stop == "" for stop in self.stop):
            raise InvalidInput("A stop string is empty.", "Give at least one character.")
        for token_id, bias in self.logit_bias:
            if token_id < 0 or not -math.inf <= bias < math.inf:
                raise InvalidInput(
                    f"logit_bias {token_id}={bias} is out of range.",
                    "Use a token id and a number below infinity (-inf forbids the token).",
                )
        for sequence, bias in self.sequence_bias:
            if not sequence or not -math.inf <= bias < math.inf:
                raise InvalidInput(
                    f"sequence_bias {list(sequence)}={bias} is out of range.",
                    "Use token ids and a number below infinity.",
                )
        if not all(self.bad_words_ids):
            raise InvalidInput("One of bad_words_ids is empty.", "Give at least one token.")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0

    @property
    def forbidden(self) -> frozenset[int]:
        """The tokens that no place may have."""
        biased = {token for token, bias in self.logit_bias if bias == -math.inf}
        banned = {sequence[0] for sequence in self.bad_words_ids if len(sequence) == 1}
        return frozenset({*biased, *banned, *self.suppress_tokens})


def check_range(name: str, value: float, *, label: str = "") -> None:
    """Raise unless ``value`` lies in the range of the sampling setting ``name``.

    Args:
        name: The setting, as SamplingParams spells it.
        value: What was asked for.
        label: How the message calls it (an option's ``--name``); ``name`` when empty.

    Raises:
        InvalidInput: the value is outside the range, NaN, or no whole number where it must be.
    """
    inside, words = _RANGES[name]
    if not inside(value) or (name in _WHOLE and not isinstance(value, int)):
        raise InvalidInput(f"{label or name} is {value}.", f"It must be {words}.")


@dataclass(frozen=True, slots=True)
class TopToken:
    """One of the most likely tokens at a position; ``logprob`` in nats."""

    id: int
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """One decoding step of one sequence.

    Attributes:
        index: Which of the returned sequences this belongs to, from 0.
        text: The text that became certain with this step; the texts of a sequence's events,
            joined, are the continuation. Empty while a character or a possible stop string is
            incomplete.
        token_id: The token drawn; None on an event that only ends the sequence.
        token_bytes: The exact bytes it stands for; empty without a token.
        logprob: Natural log of the model's own probability of the token.
        sampled_logprob: Natural log of its probability in the distribution drawn from.
        allowed_mass: With a grammar, the model's own probability of all that it allowed here.
        top: The most likely tokens at this position by the model's own distribution.
        finish_reason: Set on a sequence's last event only.
        stop: The stop string that ended the sequence, if one did.
        dropped_tokens: How many context tokens have been dropped so far (overflow "slide").
    """

    index: int
    text: str
    token_id: int | None = None
    token_bytes: bytes = b""
    logprob: float | None = None
    sampled_logprob: float | None = None
    allowed_mass: float | None = None
    top: tuple[TopToken, ...] = ()
    finish_reason: FinishReason | None = None
    stop: str | None = None
    dropped_tokens: int = 0


@dataclass(slots=True)
class DraftStats:
    """How many tokens a draft proposed, and how many of them the model took."""

    proposed: int = 0
    accepted: int = 0

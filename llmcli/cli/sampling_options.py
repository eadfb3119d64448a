"""The options that shape a distribution or a continuation, and their ranges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, get_args

import click

from llmcli.cli.options import bundle
from llmcli.engine.params import Overflow, check_range
from llmcli.errors import InvalidInput

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel


class Ranged(click.ParamType[int | float]):
    """A number in the range that SamplingParams gives the setting of the same name."""

    def __init__(self, kind: type[int] | type[float]) -> None:
        self.kind = kind
        self.name = "integer" if kind is int else "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | float:
        """Return the number, or fail naming the option and its range."""
        try:
            number = self.kind(value)
            if isinstance(value, bool) or (isinstance(value, float) and number != value):
                raise ValueError  # of a config file: true, or 2.5 for a whole number
        except (TypeError, ValueError, OverflowError):
            self.fail(f"{value!r:.40} is not a{'n' if self.kind is int else ''} {self.name}.")
        try:
            check_range(param.name if param and param.name else "", number)
        except InvalidInput as exc:
            self.fail(f"{number!r:.40} is out of range: {exc.cure[0].lower()}{exc.cure[1:]}")
        return number


class MaxTokens(Ranged):
    """A number of tokens, or ``max``: up to the end of the context."""

    def __init__(self) -> None:
        super().__init__(int)
        self.name = "integer|max"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | float:
        """Return the number; -1 for ``max``."""
        return -1 if value == "max" else super().convert(value, param, ctx)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """Sampling settings as given on the command line; None where nothing was said."""

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    temperature: float | None = None
    greedy: bool = False
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    top_h: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    logit_bias: tuple[str, ...] = ()
    ban: tuple[str, ...] = ()
    overflow: Overflow | None = None

    def __post_init__(self) -> None:
        if self.greedy and self.temperature:
            raise InvalidInput(
                f"--greedy and --temperature {self.temperature} contradict each other.",
                "Give one of them.",
            )

    def by_token(self, model: LanguageModel) -> dict[str, Any]:
        """Return what was set in terms of tokens, by SamplingParams' names.

        Raises:
            InvalidInput: a text that is none or several of the model's tokens where one is meant.
        """
        from llmcli.tasks.prompts import parse_bans, parse_logit_bias

        return {
            "logit_bias": parse_logit_bias(model, self.logit_bias),
            "bad_words_ids": parse_bans(model, self.ban),
        }

    def given(self) -> dict[str, Any]:
        """Return what was set, by SamplingParams' names; what needs the tokenizer aside."""
        said = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("greedy", "logit_bias", "ban", "max_new_tokens")
            and getattr(self, field.name) is not None
        }
        if self.max_new_tokens is not None:
            said["max_new_tokens"] = None if self.max_new_tokens == -1 else self.max_new_tokens
        if self.greedy:
            said["temperature"] = 0.0
        return said


def _number(name: str, kind: type[int] | type[float], help_text: str) -> Callable[[Any], Any]:
    return click.option(name, type=Ranged(kind), help=help_text)


_TEMPERATURE = "Divide the logits by this: higher is more varied, 0 is greedy."


def _by_likelihood(top_p_default: str = "") -> tuple[Callable[[Any], Any], ...]:
    top_p = f"Keep the likeliest tokens that add up to P; 1 is off.{top_p_default}"
    return (
        _number("--top-k", int, "Keep the K likeliest tokens; 0 is off."),
        _number("--top-p", float, top_p),
        _number(
            "--min-p", float, "Keep tokens at least P times as likely as the likeliest; 0 is off."
        ),
        _number("--typical-p", float, "Locally typical sampling; 1 is off."),
        _number("--top-h", float, "Keep the likeliest tokens up to this fraction of the entropy."),
        _number("--epsilon-cutoff", float, "Keep tokens with at least this probability; 0 is off."),
        _number(
            "--eta-cutoff",
            float,
            "Like --epsilon-cutoff, but lower where the model is unsure; 0 is off.",
        ),
    )


_FILTERS = (
    _number("--temperature", float, f"{_TEMPERATURE}  [default: the model's, else 0.8]"),
    click.option("--greedy", is_flag=True, help="Always take the likeliest token."),
    *_by_likelihood("  [default: the model's, else 0.95]"),
    _number("--repetition-penalty", float, "Make tokens that have occurred less likely; 1 is off."),
    _number(
        "--presence-penalty",
        float,
        "Subtract this from the logits of tokens already generated; 0 is off.",
    ),
    _number(
        "--frequency-penalty", float, "Subtract this for each time a token was generated; 0 is off."
    ),
    _number("--no-repeat-ngram-size", int, "Never repeat an n-gram of this size; 0 is off."),
    click.option(
        "--logit-bias",
        multiple=True,
        metavar="TOKEN=VALUE",
        help="Add VALUE to a token's logit (-inf forbids it); TOKEN is text or an id; repeatable.",
    ),
    click.option(
        "--ban",
        multiple=True,
        metavar="TEXT",
        help="Keep out this word or phrase, with or without a space before it; repeatable.",
    ),
    click.option(
        "--overflow",
        type=click.Choice(get_args(Overflow)),
        help="When the context is full: fail, drop the left or the middle of the prompt, or "
        "slide on.  [default: error]",
    ),
)

shape_options = bundle(
    "sampling",
    SamplingOptions,
    _number("--temperature", float, _TEMPERATURE),
    *_by_likelihood(),
)
"""Adds what depends on the logits alone; the callback takes ``sampling: SamplingOptions``."""

filter_options = bundle("sampling", SamplingOptions, *_FILTERS)
"""Adds what shapes one distribution; the callback takes ``sampling: SamplingOptions``."""

sampling_options = bundle(
    "sampling",
    SamplingOptions,
    click.option(
        "-n",
        "--max-new-tokens",
        type=MaxTokens(),
        help="Maximum number of tokens; max fills the context.  [default: 100]",
    ),
    _number("--min-new-tokens", int, "Do not end the text before this many tokens."),
    *_FILTERS,
)
"""Adds what shapes a continuation; the callback takes ``sampling: SamplingOptions``."""

seed_option = click.option(
    "--seed",
    type=Ranged(int),
    help="Make the result repeatable.  [default: drawn, and reported in JSON]",
)

"""What ``llmcli score`` alone takes: its options and what they exclude of each other."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import click

from llmcli.cli.batch import BatchOptions
from llmcli.cli.options import (
    bundle,
    files,
    model_names,
    refuse_idle,
)
from llmcli.errors import InvalidInput
from llmcli.io.files import existing_parent
from llmcli.io.records import RecordKind
from llmcli.models.kinds import CAUSAL, MASKED, Kind
from llmcli.models.options import LoadOptions, Precision
from llmcli.scoring.windows import PSEUDO, ConventionName
from llmcli.tasks.score import ScoreRequest, SortKey
from llmcli.terminal.score import Unit

# What goes together; all else of its kind excludes each other.
_TOGETHER = (["--tokens", "--html"], ["--html", "--vs"], ["--html", "--vs-precision"])


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSettings:
    """Score's own options, as they stand on the command line."""

    convention: ConventionName = "default"
    context: int | None = None
    stride: int | None = None
    bos: bool | None = None
    prompt: str = ""
    by: Unit = "whole"
    special: Literal["text", "allow", "forbid"] = "text"
    tokens: bool = False
    top_logprobs: int | None = None
    html: str | None = None
    sort: SortKey | None = None
    top: int | None = None
    max_ppl: float | None = None
    max_bits_per_byte: float | None = None
    vs: str | None = None
    vs_precision: Precision | None = None
    batch_size: int | None = None

    def check(self, batch: BatchOptions) -> None:
        """Find what excludes each other.

        Raises:
            InvalidInput: something does.
        """
        shown = [
            name
            for name, chosen in (
                ("--tokens", self.tokens),
                ("--html", self.html is not None),
                ("--vs" if self.vs is not None else "--vs-precision", self.compares),
                (f"--by {self.by}", self.by != "whole"),
                ("--jsonl", batch.jsonl),
            )
            if chosen
        ]
        if len(shown) > 1 and shown not in _TOGETHER:
            raise InvalidInput(f"{' and '.join(shown)} exclude each other.", "Give one of them.")
        if self.html is not None:
            existing_parent(self.html)
        if self.convention in PSEUDO and self.compares:
            raise InvalidInput(
                f"{shown[-1]} does not go with --convention {self.convention}.",
                "Score both models, and compare the figures.",
            )
        if not (self.has_rows or batch.jsonl) and (self.sort or self.top):
            raise InvalidInput("--sort and --top go with --by and --jsonl.", "Add --by line, say.")
        if self.top_logprobs is not None and not (self.tokens or self.html):
            raise InvalidInput("--top-logprobs goes with --tokens or --html.", "Add --tokens.")
        for flag, value in (
            ("--max-ppl", self.max_ppl),
            ("--max-bits-per-byte", self.max_bits_per_byte),
        ):
            if value is not None and not 0 < value < math.inf:
                raise InvalidInput(f"{flag} is {value}.", "It must be a finite number above 0.")
        if batch.output is not None:
            refuse_idle(
                "looks at all rows together, which -o does not",
                sort="--sort",
                top="--top",
                max_ppl="--max-ppl",
                max_bits_per_byte="--max-bits-per-byte",
            )

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of model that the convention is for."""
        return MASKED if self.convention in PSEUDO else CAUSAL

    @property
    def compares(self) -> bool:
        """Whether there is a second model."""
        return self.vs is not None or self.vs_precision is not None

    @property
    def has_rows(self) -> bool:
        """Whether there is a score for each of several parts of the input."""
        return self.by != "whole"

    @property
    def kind(self) -> RecordKind:
        """How the input is cut, where it is no table."""
        return "lines" if self.by in ("line", "paragraph") else "whole"

    def request(self) -> ScoreRequest:
        """How texts are scored."""
        return ScoreRequest(
            convention=self.convention,
            context=self.context,
            stride=self.stride,
            bos=self.bos,
            prompt=self.prompt,
            special=self.special,
            batch_size=self.batch_size,
            alternatives=self.alternatives,
        )

    def other(self, options: LoadOptions) -> LoadOptions:
        """The second model's options, given the first's."""
        if self.vs is not None:
            options = options.of(self.vs)
        return (
            options if self.vs_precision is None else replace(options, precision=self.vs_precision)
        )

    @property
    def alternatives(self) -> int | None:
        """How many tokens to list at each position; None where nothing but likelihoods count."""
        if not (self.tokens or self.html):
            return None
        return self.top_logprobs if self.top_logprobs is not None else 5 if self.html else 0


def _positive(*flags: str, **settings: Any) -> Any:
    return click.option(*flags, type=click.IntRange(min=1), **settings)


score_options = bundle(
    "settings",
    ScoreSettings,
    click.option(
        "--convention",
        type=click.Choice(get_args(ConventionName)),
        default="default",
        show_default=True,
        help="Windows and tokens that count: llmcli's own, or those of another tool; pll and "
        "pll-word-l2r are for masked models (BERT).",
    ),
    click.option(
        "--stride",
        type=int,
        metavar="N",
        help="Tokens by which windows advance.  [default: half the context; hf: 512]",
    ),
    _positive(
        "--context",
        metavar="N",
        help="Tokens in a window.  [default: the model's context; llama.cpp: 512]",
    ),
    click.option(
        "--bos/--no-bos",
        default=None,
        help="Put the begin-of-text token first; without it, the first token is not scored.",
    ),
    click.option("--prompt", default="", help="Text to read first, without scoring it."),
    click.option(
        "--by",
        type=click.Choice(get_args(Unit)),
        default="whole",
        show_default=True,
        help="Score each file, line or paragraph, then all together.",
    ),
    click.option(
        "--sort",
        type=click.Choice(get_args(SortKey)),
        help="Show the most surprising rows first.",
    ),
    _positive("--top", metavar="N", help="Show only the N most surprising rows."),
    click.option(
        "--tokens",
        is_flag=True,
        help="Show the text tinted by surprisal; with --json, a record per token.",
    ),
    click.option(
        "--top-logprobs",
        type=click.IntRange(min=0),
        metavar="K",
        help="Show the K likeliest tokens at each position (--tokens --json, --html).",
    ),
    click.option(
        "--html",
        metavar="FILE",
        shell_complete=files,
        help="Write a self-contained web page.",
    ),
    click.option(
        "--max-ppl", type=float, metavar="X", help="Exit with 3 if the perplexity is above X."
    ),
    click.option(
        "--max-bits-per-byte",
        type=float,
        metavar="X",
        help="Exit with 3 if the bits per byte are above X.",
    ),
    click.option(
        "--vs",
        metavar="MODEL",
        shell_complete=model_names,
        help="Compare with a second model on the same text.",
    ),
    click.option(
        "--vs-precision",
        type=click.Choice(get_args(Precision)),
        help="Precision of the second model; without --vs, of the same model again.",
    ),
    click.option(
        "--special",
        type=click.Choice(["text", "allow", "forbid"]),
        default="text",
        show_default=True,
        help="Treat control tokens such as '<|endoftext|>' as text, as tokens (allow), or as "
        "an error.",
    ),
    _positive(
        "--batch-size",
        metavar="N",
        help="Windows to run at once.  [default: as many as make 1024 tokens]",
    ),
)
"""Adds them; the callback takes ``settings: ScoreSettings``."""

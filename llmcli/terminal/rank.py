"""The table of ``llmcli rank``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmcli.terminal.next import percent
from llmcli.terminal.palette import mark_sgr
from llmcli.terminal.table import Bar, Column, Table

if TYPE_CHECKING:
    from rich.console import RenderableType

_SCORES = {
    "none": "log-likelihood",
    "tokens": "per token",
    "bytes": "per byte",
    "pmi": "PMI",
}


def rank_table(ranked: Sequence[Mapping[str, Any]], normalize: str) -> RenderableType:
    """Draw the choices, the likeliest first, each with its probability among them."""
    plain = normalize == "none"
    table = Table(
        Column("choice", "wrapped"),
        Column("probability", "number"),
        Column("", "bar", rank=2),
        Column(_SCORES[normalize], "number", rank=1),
        *(() if plain else (Column("log-likelihood", "number", rank=3),)),
        Column("tokens", "number", rank=4),
    )
    for each in ranked:
        table.add(
            each["choice"],
            percent(each["probability"]),
            Bar(each["probability"], mark_sgr()),
            f"{each['score']:.4f}",
            *(() if plain else (f"{each['logprob']:.4f}",)),
            str(each["tokens"]),
        )
    return table

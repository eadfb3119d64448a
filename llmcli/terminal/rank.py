"""The table of ``llmcli rank``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmcli.terminal.escaping import one_line
from llmcli.terminal.next import bar, percent

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
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    plain = normalize == "none"
    table.add_column("choice", overflow="fold", min_width=12)
    table.add_column("probability", justify="right", no_wrap=True)
    if plain:
        table.add_column("", no_wrap=True)
    table.add_column(_SCORES[normalize], justify="right", no_wrap=True)
    if not plain:
        table.add_column("log-likelihood", justify="right", no_wrap=True)
    table.add_column("tokens", justify="right", no_wrap=True)
    for each in ranked:
        score, probability = f"{each['score']:.4f}", each["probability"]
        if plain:
            cells: tuple[str | Text, ...] = (Text(bar(probability)), score)
        else:
            cells = (score, f"{each['logprob']:.4f}")
        choice = Text(one_line(each["choice"]))
        table.add_row(choice, percent(probability), *cells, str(each["tokens"]))
    return table

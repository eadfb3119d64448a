"""The labels of ``llmcli classify``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcli.tasks.classify import LabelAnswer
from llmcli.terminal.escaping import one_line
from llmcli.terminal.next import percent
from llmcli.terminal.palette import mark_sgr
from llmcli.terminal.table import Bar, Column, Table

if TYPE_CHECKING:
    from rich.console import RenderableType


def label_table(answer: LabelAnswer) -> RenderableType:
    """Draw the labels, the likeliest first, and those of the set marked."""
    from rich.console import Group
    from rich.text import Text

    table = Table(
        Column("label", "wrapped"),
        Column("probability", "number"),
        Column("", "bar", rank=2),
        Column("log-likelihood", "number", rank=1),
    )
    scores = dict(zip(answer.task.labels, answer.scores, strict=True))
    ranked = sorted(answer.probabilities.items(), key=lambda each: -each[1])
    for label, probability in ranked:
        drawn = Bar(probability, mark_sgr())
        table.add(label, percent(probability), drawn, f"{scores[label]:.4f}")
    chosen = answer.chosen
    if chosen is None:
        return table
    shown = ", ".join(map(one_line, chosen)) or "no label"
    return Group(table, Text(f"set at alpha {answer.decision.alpha:g}: {shown}"))

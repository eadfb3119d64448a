"""The labels of ``llmcli classify``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcli.tasks.classify import LabelAnswer
from llmcli.terminal.escaping import one_line
from llmcli.terminal.next import bar, percent

if TYPE_CHECKING:
    from rich.console import RenderableType


def label_table(answer: LabelAnswer) -> RenderableType:
    """Draw the labels, the likeliest first, and those of the set marked."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("label", overflow="fold", min_width=12)
    table.add_column("probability", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("log-likelihood", justify="right", no_wrap=True)
    scores = dict(zip(answer.task.labels, answer.scores, strict=True))
    ranked = sorted(answer.probabilities.items(), key=lambda each: -each[1])
    for label, probability in ranked:
        table.add_row(
            Text(one_line(label)), percent(probability), Text(bar(probability)),
            f"{scores[label]:.4f}",
        )  # fmt: skip
    chosen = answer.chosen
    if chosen is None:
        return table
    shown = ", ".join(map(one_line, chosen)) or "no label"
    return Group(table, Text(f"set at alpha {answer.decision.alpha:g}: {shown}"))

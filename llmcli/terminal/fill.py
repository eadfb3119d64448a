"""The tables of ``llmcli fill``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llmcli.terminal.next import percent, quoted
from llmcli.terminal.palette import mark_sgr
from llmcli.terminal.table import Bar, Column, Table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llmcli.tasks.fill import FillAnswer


def fill_tables(answer: FillAnswer) -> RenderableType:
    """Draw each gap's candidates with a bar each."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    for number, gap in enumerate(answer.gaps, start=1):
        if number > 1:
            parts.append("")
        table = Table(
            Column("token" if len(answer.gaps) == 1 else f"gap {number}"),
            Column("id", "number", rank=3),
            Column("probability", "number"),
            Column("logprob", "number", rank=2),
            Column("", "bar", rank=1),
        )
        for each in gap.candidates:
            probability = math.exp(each.logprob)
            table.add(
                quoted(answer.data[each.id]),
                str(each.id),
                percent(probability),
                f"{each.logprob:.3f}",
                Bar(probability, mark_sgr()),
            )
        bits = f"entropy {gap.entropy:.3f} nats ({gap.entropy / math.log(2):.3f} bits)"
        parts += [table, Text(bits, style="dim")]
    return Group(*parts)

"""The tables of ``llmcli fill``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llmcli.terminal.generate import tint_style
from llmcli.terminal.next import bar, percent, quoted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llmcli.tasks.fill import FillAnswer


def fill_tables(answer: FillAnswer) -> RenderableType:
    """Draw each gap's candidates with a bar each."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    for number, gap in enumerate(answer.gaps, start=1):
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("token" if len(answer.gaps) == 1 else f"gap {number}", no_wrap=True)
        for title in ("id", "probability", "logprob"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        for each in gap.candidates:
            probability = math.exp(each.logprob)
            table.add_row(
                Text(quoted(answer.data[each.id])),
                str(each.id),
                percent(probability),
                f"{each.logprob:.3f}",
                Text(bar(probability), style=tint_style(each.logprob)),
            )
        bits = f"entropy {gap.entropy:.3f} nats ({gap.entropy / math.log(2):.3f} bits)"
        parts += [table, Text(bits, style="dim")]
    return Group(*parts)

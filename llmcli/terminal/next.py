"""The table of ``llmcli next``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from llmcli.terminal.escaping import one_line
from llmcli.terminal.palette import mark_sgr
from llmcli.terminal.table import Bar, Column, Table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llmcli.tasks.next import NextToken


def next_table(result: NextToken, token_bytes: Callable[[int], bytes]) -> RenderableType:
    """Draw the candidates with a bar each, then a line for each filter."""
    from rich.console import Group
    from rich.text import Text

    table = Table(
        Column("token"),
        Column("id", "number", rank=4),
        Column("probability", "number"),
        Column("logprob", "number", rank=3),
        Column("", "bar", rank=2),
        Column("sampled", "number", rank=1),
    )
    for each in result.candidates:
        probability = math.exp(each.logprob)
        sampled = "–" if each.sampled_logprob is None else percent(math.exp(each.sampled_logprob))
        table.add(
            quoted(token_bytes(each.id)),
            str(each.id),
            percent(probability),
            f"{each.logprob:.3f}",
            Bar(probability, mark_sgr()),
            sampled,
        )
    lines = [f"entropy {result.entropy:.3f} nats ({result.entropy / math.log(2):.3f} bits)"]
    for step in result.filters:
        label = step.name.replace("_", "-") + ("" if step.value is None else f" {step.value:g}")
        lines.append(
            f"{label}: {step.kept} tokens, {percent(step.mass)} kept, "
            f"entropy {step.entropy:.3f} nats"
        )
    return Group(table, Text("\n".join(lines), style="dim"))


def quoted(data: bytes) -> str:
    """Show a token so that its spaces and odd bytes are seen: ``' the'``, ``'\\n'``, ``\\xe2``."""
    try:
        return f"'{one_line(data.decode('utf-8'))}'"
    except UnicodeDecodeError:
        return "'" + "".join(chr(b) if 0x20 <= b < 0x7F else f"\\x{b:02x}" for b in data) + "'"


def percent(value: float) -> str:
    """A share as a percentage, with as many digits as a small one needs."""
    return f"{value:.2%}" if value >= 0.001 or value == 0 else f"{value:.1e}"

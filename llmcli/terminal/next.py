"""The table of ``llmcli next``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from llmcli.terminal.escaping import one_line
from llmcli.terminal.generate import tint_style

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llmcli.tasks.next import NextToken

_BAR = 20
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def next_table(result: NextToken, token_bytes: Callable[[int], bytes]) -> RenderableType:
    """Draw the candidates with a bar each, then a line for each filter."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("token", no_wrap=True)
    for title in ("id", "probability", "logprob"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("sampled", justify="right", no_wrap=True)
    for each in result.candidates:
        probability = math.exp(each.logprob)
        sampled = "–" if each.sampled_logprob is None else percent(math.exp(each.sampled_logprob))
        table.add_row(
            Text(quoted(token_bytes(each.id))),
            str(each.id),
            percent(probability),
            f"{each.logprob:.3f}",
            Text(bar(probability), style=tint_style(each.logprob)),
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


def bar(share: float) -> str:
    """A bar of eighths of a character for a share from 0 to 1."""
    eighths = round(share * _BAR * 8)
    return _EIGHTHS[8] * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")

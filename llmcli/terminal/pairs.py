"""The table of ``llmcli pairs``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmcli.terminal.table import Column, Table

if TYPE_CHECKING:
    from rich.console import RenderableType


def pairs_table(record: Mapping[str, Any]) -> RenderableType:
    """Draw a record as ``pairs --json`` prints it: a row for each group, then all together."""
    table = Table(
        Column(record["by"] or "", "wrapped"),
        Column("pairs", "number", rank=1),
        Column("good likelier", "number"),
        Column("95 % of it", "number", rank=2),
        Column("ties", "number", rank=4),
        Column("log ratio", "number", rank=3),
    )
    for each in (*record["groups"], {**record, "group": "all"}):
        low, high = each["share_interval"]
        table.add(
            each["group"],
            f"{each['pairs']:,}",
            f"{each['share']:.2%}",
            f"{low:.1%}–{high:.1%}",
            f"{each['ties']:,}",
            f"{each['log_ratio']:+.3f}",
        )
    return table

"""The table of ``llmcli pairs``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmcli.terminal.escaping import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType


def pairs_table(record: Mapping[str, Any]) -> RenderableType:
    """Draw a record as ``pairs --json`` prints it: a row for each group, then all together."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(record["by"] or "", overflow="fold", min_width=5)
    for title in ("pairs", "good likelier", "95 % of it", "ties", "log ratio"):
        table.add_column(title, justify="right", no_wrap=True)
    for each in (*record["groups"], {**record, "group": "all"}):
        low, high = each["share_interval"]
        table.add_row(
            Text(one_line(each["group"])),
            f"{each['pairs']:,}",
            f"{each['share']:.2%}",
            f"{low:.1%}–{high:.1%}",
            f"{each['ties']:,}",
            f"{each['log_ratio']:+.3f}",
        )
    return table

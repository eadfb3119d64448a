"""Calibration of generations for a person: a table by depth and a chart of lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

_WIDTH, _HEIGHT = 60, 12
LINES = {
    "text_nll": ("t", "text's log loss"),
    "surprisal": ("x", "surprisal of what was drawn"),
    "entropy": ("o", "the model's entropy"),
    "sampling_entropy": ("•", "entropy drawn from"),
}
"""Field, mark, name; what is drawn later lies above."""


def generations_view(record: Mapping[str, Any]) -> RenderableType:
    """Draw a record as ``calibrate --generations --json`` prints it."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("tokens", no_wrap=True)
    for title in ("entropy", "drawn", "surprisal", "text", "EntCE", "95 % of it"):
        table.add_column(title, justify="right", no_wrap=True)
    for each in record["blocks"]:
        table.add_row(f"{each['begin'] + 1}–{each['end']}", *_cells(each))
    if len(record["blocks"]) > 1:
        table.add_row("all", *_cells(record["overall"]))
    lines = [*line_chart(record["blocks"]), *_match(record["match"])]
    return Group(table, Text("\n".join(lines))) if lines else table


def _cells(each: Mapping[str, Any]) -> list[str]:
    names = ("entropy", "sampling_entropy", "surprisal", "text_nll", "entce")
    bounds = each["entce_interval"]
    return [
        *(_number(each[name], sign=name == "entce") for name in names),
        "–" if bounds is None else f"{bounds[0]:+.2f} to {bounds[1]:+.2f}",
    ]


def _number(value: float | None, *, sign: bool) -> str:
    return "–" if value is None else f"{value:{'+' if sign else ''}.3f}"


def line_chart(blocks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of at most 80 columns: nats a token over depth; none for a single block."""
    if len(blocks) < 2:
        return []
    values = [each[name] for each in blocks for name in LINES if each[name] is not None]
    low, high = min(values), max(values)
    grid = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    step = (_WIDTH - 1) / (len(blocks) - 1)
    for name, (mark, _) in LINES.items():
        for place, each in enumerate(blocks):
            if each[name] is not None:
                share = (each[name] - low) / (high - low) if high > low else 0.5
                grid[round((1 - share) * (_HEIGHT - 1))][round(place * step)] = mark
    labels = {0: f"{high:.3f}", _HEIGHT - 1: f"{low:.3f}"}
    lines = [f"{labels.get(at, ''):>8} ┤{''.join(row)}".rstrip() for at, row in enumerate(grid)]
    end = f"{blocks[-1]['end']} tokens"
    shown = [f"{mark} {title}" for name, (mark, title) in LINES.items() if _has(blocks, name)]
    return [
        *lines,
        " " * 9 + "└" + "─" * _WIDTH,
        " " * 10 + f"{blocks[0]['end']}{end:>{_WIDTH - len(str(blocks[0]['end']))}}",
        *_wrapped(shown),
    ]


def _has(blocks: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any(each[name] is not None for each in blocks)


def _wrapped(shown: Sequence[str]) -> list[str]:
    """Two a line: four are wider than 80 columns."""
    return ["  ".join(shown[begin : begin + 2]) for begin in range(0, len(shown), 2)]


def _match(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return []
    name = found["setting"].replace("_", "-")
    if found["value"] is None:
        return ["", f"No {name} from {found['low']:g} to {found['high']:g} matches the text."]
    return ["", f"As uncertain as the text is surprising with: {found['flags']}"]

"""Calibration of generations for a person: a table by depth and a chart of lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmcli.terminal.table import Column, Table

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

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
    from rich.console import Group

    table = Table(
        Column("tokens"),
        Column("entropy", "number", rank=1),
        Column("drawn", "number"),
        Column("surprisal", "number", rank=3),
        Column("text", "number", rank=2),
        Column("EntCE", "number"),
        Column("95 % of it", "number", rank=4),
    )
    for each in record["blocks"]:
        table.add(f"{each['begin'] + 1}–{each['end']}", *_cells(each))
    if len(record["blocks"]) > 1:
        table.add("all", *_cells(record["overall"]))
    return Group(table, _Chart(record["blocks"]), *_match(record["match"]))


@dataclass(frozen=True, slots=True)
class _Chart:
    """The lines of a chart, as wide as there is room."""

    blocks: Sequence[Mapping[str, Any]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from line_chart(self.blocks, width=options.max_width)


def _cells(each: Mapping[str, Any]) -> list[str]:
    names = ("entropy", "sampling_entropy", "surprisal", "text_nll", "entce")
    bounds = each["entce_interval"]
    return [
        *(_number(each[name], sign=name == "entce") for name in names),
        "–" if bounds is None else f"{bounds[0]:+.2f} to {bounds[1]:+.2f}",
    ]


def _number(value: float | None, *, sign: bool) -> str:
    return "–" if value is None else f"{value:{'+' if sign else ''}.3f}"


def line_chart(blocks: Sequence[Mapping[str, Any]], *, width: int) -> list[str]:
    """Lines of so many columns: nats a token over depth; none for a single block."""
    if len(blocks) < 2:
        return []
    inner = max(10, min(_WIDTH, width - 10))
    values = [each[name] for each in blocks for name in LINES if each[name] is not None]
    low, high = min(values), max(values)
    grid = [[" "] * inner for _ in range(_HEIGHT)]
    step = (inner - 1) / (len(blocks) - 1)
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
        " " * 9 + "└" + "─" * inner,
        " " * 10 + f"{blocks[0]['end']}{end:>{inner - len(str(blocks[0]['end']))}}",
        *_wrapped(shown, width),
    ]


def _has(blocks: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any(each[name] is not None for each in blocks)


def _wrapped(shown: Sequence[str], width: int) -> list[str]:
    """Two a line where they fit."""
    each = 2 if width >= 60 else 1
    return ["  ".join(shown[begin : begin + each]) for begin in range(0, len(shown), each)]


def _match(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return []
    name = found["setting"].replace("_", "-")
    if found["value"] is None:
        return ["", f"No {name} from {found['low']:g} to {found['high']:g} matches the text."]
    return ["", f"As uncertain as the text is surprising with: {found['flags']}"]

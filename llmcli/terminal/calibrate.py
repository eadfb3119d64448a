"""Calibration for a person: a table of figures and a reliability diagram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmcli.terminal.palette import DIM
from llmcli.terminal.table import Bar, Column, Styled, Table

if TYPE_CHECKING:
    from rich.console import RenderableType

_LONGEST_BAR = 41


def calibration_view(record: Mapping[str, Any]) -> RenderableType:
    """Draw a record as ``calibrate --json`` prints it."""
    from rich.console import Group

    table = Table(Column(), Column("", "number"), Column("", "wrapped"), header=False)
    floor, high = record["ece_floor"]
    for name, value, remark in (
        ("tokens", f"{record['tokens']:,}", ""),
        ("accuracy", _percent(record["accuracy"]), "the likeliest token came"),
        ("confidence", _percent(record["confidence"]), "its mean probability"),
        ("NLL", _number(record["nll"]), "nats a token"),
        ("entropy", _number(record["entropy"]), "nats a token"),
        ("ECE", _number(record["ece"]), _range(record["ece_interval"])),
        ("  by chance", _number(floor), f"95 % of perfect models: under {_number(high)}"),
        ("ACE", _number(record["ace"]), "bins of equal mass"),
        ("smooth ECE", _number(record["smece"]), f"width {_number(record['smece_width'])}"),
        ("MCE", _number(record["mce"]), "bins of 50 tokens and more"),
        ("Brier score", _number(record["brier"]), _murphy(record)),
        ("temperature", _number(record["temperature"]), _temperature(record)),
    ):
        table.add(name, value, Styled(remark, DIM))
    if record["nll_after"] is not None:
        table.add("  NLL with it", *_change(record, "nll"))
        table.add("  ECE with it", *_change(record, "ece"))
    return Group(table, "", *reliability_diagram(record["bins"]))


def reliability_diagram(bins: Sequence[Mapping[str, Any]]) -> tuple[RenderableType, ...]:
    """A bar of accuracy for each bin, with | at its mean confidence, and what that means."""
    table = Table(
        Column("confidence"),
        Column("accuracy", "bar"),
        Column("95 % of it", rank=1),
        Column("tokens", "number", rank=2),
        longest_bar=_LONGEST_BAR,
    )
    for each in bins:
        low, high = each["accuracy_interval"]
        table.add(
            f"{each['low']:.2f}–{each['high']:.2f}",
            Bar(each["accuracy"], mark=each["confidence"]),
            f"{low:.3f}–{high:.3f}",
            f"{each['tokens']:,}",
        )
    return table, "█ accuracy, | mean confidence: where the bar ends at the |, they agree"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _percent(value: float) -> str:
    return f"{value:.2%}"


def _range(bounds: Sequence[float] | None) -> str:
    return "too short for an interval" if bounds is None else f"{bounds[0]:.4g} to {bounds[1]:.4g}"


def _murphy(record: Mapping[str, Any]) -> str:
    return (
        f"reliability {_number(record['reliability'])}, resolution "
        f"{_number(record['resolution'])}, uncertainty {_number(record['uncertainty'])}"
    )


def _temperature(record: Mapping[str, Any]) -> str:
    if record["temperature"] is None:
        few = record["tokens"] < 200
        return "no fit under 200 tokens" if few else "beyond 0.33 to 4"
    bounds = record["temperature_interval"]
    if bounds is None:
        return _range(None)
    inside = bounds[0] <= 1 <= bounds[1]
    return _range(bounds) + (": 1 is among them, leave it" if inside else "")


def _change(record: Mapping[str, Any], name: str) -> tuple[str, str]:
    before, after = record[f"{name}_before"], record[f"{name}_after"]
    return _number(after), f"{_number(before)} without, on the held-out part"

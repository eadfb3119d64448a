"""Calibration of labels for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmcli.terminal.escaping import one_line
from llmcli.terminal.table import Column, Table

if TYPE_CHECKING:
    from rich.console import RenderableType

# Field: title and rank.
_COLUMNS = {
    "accuracy": ("accuracy", 2),
    "macro_f1": ("macro F1", 5),
    "nll": ("NLL", 0),
    "brier": ("Brier", 4),
    "ece": ("ECE", 0),
    "floor": ("by chance", 1),
    "aurc": ("AURC", 3),
}


def label_calibration_view(record: Mapping[str, Any]) -> RenderableType:
    """Draw a record as ``calibrate --labels --json`` prints it."""
    from rich.console import Group
    from rich.text import Text

    table = Table(
        Column("correction", "wrapped"),
        *(Column(title, "number", rank=rank) for title, rank in _COLUMNS.values()),
    )
    fit = record["fit"]
    for name, each in (
        *((each["correction"], each) for each in record["corrections"]),
        (f"{fit['correction']}, fitted", fit),
    ):
        shown = {**each, "floor": each["ece_floor"][1]}
        table.add(name, *(f"{shown[column]:.3f}" for column in _COLUMNS))
    lines = [
        f"{record['inputs']:,} labelled inputs, {record['held_out']:,} of them held out: the "
        "figures are of these.",
        "by chance: 95 % of perfect models have an ECE under this.",
        f"fit: scale {fit['scale']:.4g}{_bias(fit['bias'])}",
        *_sets(record["conformal"]),
    ]
    return Group(table, Text("\n".join(lines)))


def _bias(bias: Mapping[str, float] | None) -> str:
    if bias is None:
        return "; no bias under 50 inputs a label"
    return "; bias " + ", ".join(f"{one_line(label)} {each:+.3g}" for label, each in bias.items())


def _sets(found: Mapping[str, Any]) -> list[str]:
    head = f"sets at alpha {found['alpha']:g}: of labels with 1 - q up to {found['threshold']:.4g}"
    if found["coverage"] is None:
        return [head, "  too few inputs to measure their coverage"]
    low, high = found["coverage_interval"]
    return [
        head,
        f"  {found['coverage']:.2%} hold the truth ({low:.1%} to {high:.1%}); "
        f"{found['set_size']:.2f} labels on average, {found['empty']:.1%} have none",
    ]

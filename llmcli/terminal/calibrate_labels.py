"""Calibration of labels for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmcli.terminal.escaping import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

_COLUMNS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
    "floor": "by chance",
    "aurc": "AURC",
}


def label_calibration_view(record: Mapping[str, Any]) -> RenderableType:
    """Draw a record as ``calibrate --labels --json`` prints it."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("correction", no_wrap=True)
    for title in _COLUMNS.values():
        table.add_column(title, justify="right", no_wrap=True)
    fit = record["fit"]
    for name, each in (
        *((each["correction"], each) for each in record["corrections"]),
        (f"{fit['correction']}, fitted", fit),
    ):
        shown = {**each, "floor": each["ece_floor"][1]}
        table.add_row(name, *(f"{shown[column]:.3f}" for column in _COLUMNS))
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

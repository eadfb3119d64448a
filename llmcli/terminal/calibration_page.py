"""Calibration as one self-contained page, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from llmcli.io.files import atomic_write
from llmcli.terminal.calibrate_generations import LINES
from llmcli.terminal.page import Page


def write_page(path: Path, record: Mapping[str, Any]) -> None:
    """Write the page of a record as ``calibrate --json`` prints it, of tokens or of generations.

    Raises:
        StorageError: the disk does not take it.
    """
    with atomic_write(path) as file:
        page = Page("calibration", file.write)
        page.data("record", record)
        page.finish()


def write_picture(path: Path, record: Mapping[str, Any]) -> None:
    """Write a PNG of a record as ``calibrate --json`` prints it.

    Raises:
        StorageError: the disk does not take it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    (_draw_generations if "blocks" in record else _draw_tokens)(figure, record)
    with atomic_write(path) as file:
        _save(figure, file)


def _save(figure: Any, file: BinaryIO) -> None:
    figure.savefig(file, format="png", dpi=150)


def _draw_tokens(figure: Any, record: Mapping[str, Any]) -> None:
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    bins = record["bins"]
    edges = [each["low"] for each in bins]
    widths = [each["high"] - each["low"] for each in bins]
    accuracy = [each["accuracy"] for each in bins]
    errors = [
        [each["accuracy"] - each["accuracy_interval"][0] for each in bins],
        [each["accuracy_interval"][1] - each["accuracy"] for each in bins],
    ]
    middles = [edge + width / 2 for edge, width in zip(edges, widths, strict=True)]
    upper.bar(edges, accuracy, widths, align="edge", color="#f0b090", edgecolor="white")
    upper.errorbar(middles, accuracy, errors, fmt="none", ecolor="#c8501e")
    sure = [each["confidence"] for each in bins]
    upper.plot(sure, sure, "o", color="#1c1d21", markersize=4, label="mean confidence")
    upper.plot([0, 1], [0, 1], "--", color="#6a6d75", linewidth=1)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy, with 95 % bands")
    upper.set_title(
        f"{record['model']}: ECE {record['ece']:.4g}, by chance {record['ece_floor'][0]:.4g}"
    )
    upper.legend(loc="upper left")
    tokens = [each["tokens"] for each in bins]
    lower.bar(edges, tokens, widths, align="edge", color="#c8c8c4", edgecolor="white")
    lower.set(xlabel="confidence", ylabel="tokens")


def _draw_generations(figure: Any, record: Mapping[str, Any]) -> None:
    axes = figure.subplots()
    for name, (_, label) in LINES.items():
        found = [each for each in record["blocks"] if each[name] is not None]
        if not found:
            continue
        depth = [(each["begin"] + each["end"]) / 2 for each in found]
        values = [each[name] for each in found]
        (line,) = axes.plot(depth, values, marker="o", label=label)
        bounds = [each[f"{name}_interval"] for each in found]
        if all(bounds):
            low, high = zip(*bounds, strict=True)
            axes.fill_between(depth, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="tokens written", ylabel="nats a token", title=f"What {record['model']} writes")
    axes.grid(alpha=0.3)
    axes.legend()

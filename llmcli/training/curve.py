"""A loss curve: in characters, and as a picture where matplotlib is installed."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Points = Sequence[tuple[float, float]]
"""(x, y) pairs; x grows."""


def metric(records: Sequence[dict[str, Any]], name: str, *, over: str = "tokens") -> Points:
    """Return the pairs of two fields over the records that have both."""
    return [(record[over], record[name]) for record in records if name in record and over in record]


def draw_curve(
    points: Points, *, beside: Points = (), width: int = 60, height: int = 12, unit: str = ""
) -> list[str]:
    """Return the lines of a chart of at most ``width`` by ``height`` characters and its axes.

    Each column shows the mean of the points that fall into it, as ``•``, and of those of a second
    series, as ``◦``; columns without one are blank. Fewer than two points have no lines.
    """
    if len(points) < 2:
        return []  # one point is no curve
    places = [x for x, _ in (*points, *beside)]
    first, last = min(places), max(places)
    series = [("◦", _means(beside, first, last, width)), ("•", _means(points, first, last, width))]
    heights = [mean for _, means in series for mean in means if mean is not None]
    low, high = min(heights), max(heights)
    grid = [[" "] * width for _ in range(height)]
    for mark, means in series:
        for x, mean in enumerate(means):
            if mean is not None:
                share = (mean - low) / (high - low) if high > low else 0.0
                grid[round((1 - share) * (height - 1))][x] = mark
    labels = {0: f"{high:.3f}", height - 1: f"{low:.3f}"}
    lines = [f"{labels.get(at, ''):>8} ┤{''.join(row)}".rstrip() for at, row in enumerate(grid)]
    end = f"{_short(last)} {unit}".rstrip()
    axis = f"{_short(first)}{end:>{max(1, width - len(_short(first)))}}"
    return [*lines, " " * 9 + "└" + "─" * width, " " * 10 + axis]


def _means(points: Points, first: float, last: float, width: int) -> list[float | None]:
    columns: list[list[float]] = [[] for _ in range(width)]
    for x, y in points:
        share = (x - first) / (last - first) if last > first else 0.0
        columns[min(int(share * width), width - 1)].append(y)
    return [math.fsum(column) / len(column) if column else None for column in columns]


def _short(value: float) -> str:
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:g}"


def save_picture(records: Sequence[dict[str, Any]], path: Path) -> bool:
    """Write ``loss.png``: training and validation loss over tokens; False without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, label in (("loss", "training"), ("validation_loss", "validation")):
        points = metric(records, name)
        if points:
            axes.plot(*zip(*points, strict=True), label=label, linewidth=1)
    axes.set_xlabel("tokens")
    axes.set_ylabel("loss (nats a token)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    return True

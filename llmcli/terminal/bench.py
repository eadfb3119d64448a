"""What ``llmcli bench`` measured: a table, CSV, JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmcli.terminal.console import Console
from llmcli.terminal.palette import mark_sgr
from llmcli.terminal.table import Bar, Column, Table

if TYPE_CHECKING:
    from rich.console import RenderableType


def show_json(records: Iterable[Mapping[str, Any]], console: Console) -> None:
    """Each record as it comes."""
    for record in records:
        console.record(record)


def show_csv(records: Iterable[Mapping[str, Any]], console: Console) -> None:
    """All records as comma-separated values."""
    collected = list(records)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(collected[0]), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(collected)
    console.write(text.getvalue())


def show_table(records: Iterable[Mapping[str, Any]], console: Console) -> None:
    """All records as a table, with what they were measured on."""
    collected = list(records)
    console.render(bench_table(collected))
    console.line(bench_setting(collected[0]))


def bench_table(records: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Draw a row for each model and precision; speeds are tokens a second."""
    speeds = [
        key.removesuffix("_tokens_per_second")
        for key in records[0]
        if key.endswith("_tokens_per_second")
    ]
    drawn = next((name for name in speeds if name.startswith("decode")), speeds[0])
    most = max(record.get(f"{drawn}_tokens_per_second") or 0.0 for record in records) or 1.0
    ranks = range(4 + len(speeds), 4, -1)
    table = Table(
        Column("model", "wrapped"),
        Column("precision"),
        *(
            Column(_heading(name), "number", rank=0 if name == drawn else rank)
            for name, rank in zip(speeds, ranks, strict=True)
        ),
        Column("", "bar", rank=1),
        Column("of\nlimit", "number", rank=2),
        Column("load\ns", "number", rank=4),
        Column("peak\nMB", "number", rank=3),
        longest_bar=12,
    )
    for record in records:
        share = record["share_of_bandwidth"]
        speed = record.get(f"{drawn}_tokens_per_second") or 0.0
        table.add(
            record["model"],
            record["precision"],
            *(_speed(record, name) for name in speeds),
            Bar(speed / most, mark_sgr()),
            "–" if share is None else f"{share:.0%}",
            f"{record['load_seconds']:.2f}",
            f"{record['peak_memory_bytes'] / 1e6:.0f}",
        )
    return table


def _speed(record: Mapping[str, Any], name: str) -> str:
    mean = record.get(f"{name}_tokens_per_second")
    return "–" if mean is None else f"{mean:.0f} ±{record[f'{name}_deviation']:.0f}"


def _heading(name: str) -> str:
    what, _, size = name.partition("_")
    return f"{what}\n{size.replace('_', ' ')}"


def bench_setting(record: Mapping[str, Any]) -> str:
    """One line on what it was measured with."""
    bandwidth = record["memory_bandwidth_bytes_per_second"]
    limit = f", memory read at {bandwidth / 1e9:.1f} GB/s" if bandwidth else ""
    return (
        f"{record['processor']}, {record['threads']} threads, {record['kernels']}{limit}; "
        f"tokens a second, mean and deviation of {record['repetitions']} runs after one that "
        "does not count"
    )

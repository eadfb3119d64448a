"""Plain tables."""

from __future__ import annotations

from collections.abc import Sequence

from llmcli.terminal.console import DIM, Console


def write_table(console: Console, rows: Sequence[Sequence[str]], *, header: bool = True) -> None:
    """Aligned columns, never cut: they are read by eyes and by awk alike."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        line = "  ".join(cells).rstrip()
        console.write(line, sgr=DIM if header and number == 0 else "")
        console.line()

"""Scores for a person: the table of totals, lines of rows, two models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmcli.terminal.escaping import one_line
from llmcli.terminal.table import Column, Table, cut

if TYPE_CHECKING:
    from rich.console import RenderableType

_LEAST_TEXT = 20  # columns beside a row's figures


def number(value: float | None, digits: int = 5) -> str:
    """A figure with so many significant digits; a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}g}"


def score_table(record: Mapping[str, Any], course: str = "") -> RenderableType:
    """Draw a record as ``score --json`` prints it; ``course`` is a line on the surprisal."""
    from rich.console import Group
    from rich.text import Text

    table = _table()
    prefix = "pseudo_" if "pseudo_nll" in record else ""
    label = prefix.replace("_", "-")
    table.add(f"{label}perplexity", number(record[f"{prefix}perplexity"]), _interval(record))
    table.add(f"{label}NLL per token", number(record[f"{prefix}nll_per_token"]), "nats")
    table.add(f"{label}NLL", number(record[f"{prefix}nll"], 8), "nats")
    for name in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        if (value := record[f"{prefix}{name}"]) is not None:
            table.add(label + name.replace("_", " "), number(value), "")
    for name in ("tokens", "words", "bytes"):
        table.add(name, f"{record[name]:,}", "")
    if "rows" in record:
        table.add("rows", f"{record['rows']:,}", "")
        for name, value in record["mean_of_rows"].items():
            table.add("  mean " + name.replace("_", " "), number(value), "each row alike")
    parts: list[RenderableType] = [table]
    if course:
        parts.append(Text(course))
    return Group(*parts, Text(_provenance(record), style="dim"))


def versus_table(record: Mapping[str, Any]) -> RenderableType:
    """Draw two models' figures and their difference."""
    from rich.console import Group
    from rich.text import Text

    other, difference = record["vs"], record["difference"]
    names = Table(Column(), Column("", "wrapped"), header=False)
    names.add("A", who(record))
    names.add("B", who(other))
    table = Table(
        Column("", "wrapped"),
        Column("A", "number"),
        Column("B", "number"),
        Column("B - A", "number"),
    )
    for name in ("perplexity", "nll_per_token", "bits_per_byte", "tokens"):
        ours, theirs = record[name], other[name]
        gap = None if ours is None or theirs is None else theirs - ours
        table.add(name.replace("_", " "), number(ours), number(theirs), signed(gap))
    per = "token" if "nll_per_token" in difference else "byte"
    lines = [
        f"B's NLL less A's: {signed(difference[f'nll_per_{per}'])} nats a "
        f"{per}{_between(difference[f'nll_per_{per}_interval'])}."
    ]
    if difference["kl_divergence"] is not None:
        lines.append(
            f"KL divergence {number(difference['kl_divergence'])} nats a token; the same likeliest "
            f"token at {difference['same_top']:.1%} of positions."
        )
    footer = Text("\n".join([*lines, _windows(record)]), style="dim")
    return Group(names, "", table, footer)


def row_header(*, pseudo: bool = False, width: int | None = None) -> str:
    """The line above the rows."""
    names = ("pseudo-ppl", "pseudo-b/B") if pseudo else ("perplexity", "bits/byte")
    return f"{_row_head([*names, 'tokens'], width)}text\n"


def row_line(
    figures: Mapping[str, Any], label: str, *, width: int | None, whole: bool = False
) -> str:
    """A row: its figures and what it is.

    Args:
        figures: As JSON has them.
        label: What it is.
        width: Of the terminal, which a row fits: text is cut, and on a narrow one the less
            important figures are left out. None for no terminal.
        whole: The label is a name, which is never cut.
    """
    prefix = "pseudo_" if "pseudo_nll" in figures else ""
    perplexity, bits = figures[f"{prefix}perplexity"], figures[f"{prefix}bits_per_byte"]
    head = _row_head([number(perplexity), number(bits, 4), f"{figures['tokens']:,}"], width)
    label = one_line(label)
    if width is not None and not whole:
        label = cut(label, width - len(head))
    return f"{head}{label}\n"


def _row_head(cells: Sequence[str], width: int | None) -> str:
    """A row's figures; as many as leave some room for the text."""
    widths = (12, 10, 8)
    shown = [f"{cell:>{each}} " for cell, each in zip(cells, widths, strict=True)]
    while width is not None and len(shown) > 1 and len("".join(shown)) + _LEAST_TEXT > width:
        shown.pop()
    return "".join(shown) + " "


def _table() -> Table:
    return Table(Column(), Column("", "number"), Column("", "wrapped"), header=False)


def _interval(record: Mapping[str, Any]) -> str:
    bounds = record.get("perplexity_interval", record.get("pseudo_perplexity_interval"))
    if bounds is None:
        return ""
    blocks = record["interval"]["block_tokens"]
    return f"95 % {number(bounds[0])} to {number(bounds[1])} (blocks of {blocks} tokens)"


def _between(interval: list[float] | None) -> str:
    return "" if interval is None else f" (95 %: {signed(interval[0])} to {signed(interval[1])})"


def bounds_of(interval: Sequence[float] | None) -> str:
    """The bounds of a 95 % interval; nothing where there is none."""
    return "" if interval is None else f"95 %: {interval[0]:,.5g} to {interval[1]:,.5g}"


def signed(value: float | None) -> str:
    """A difference with its sign; a dash where there is none."""
    return "–" if value is None else f"{value:+.4g}"


def who(record: Mapping[str, Any]) -> str:
    """A model and its precision."""
    return f"{record['model']} ({record['precision']})"


def _windows(record: Mapping[str, Any]) -> str:
    bos = "BOS first" if record["bos"] else "no BOS: the first token is not scored"
    if "pseudo_nll" in record:
        return (
            f"convention {record['convention']} (pseudo-log-likelihood: each token given those "
            f"around it), stretches of {record['context']} tokens"
        )
    return (
        f"convention {record['convention']}, context {record['context']}, "
        f"stride {record['stride']}, {bos}"
    )


def _provenance(record: Mapping[str, Any]) -> str:
    revision = f" at {str(record['revision'])[:12]}" if record["revision"] else ""
    return one_line(
        f"{_windows(record)}; {record['model']}{revision}, {record['precision']}; "
        f"{record['seconds']:.1f} s, {record['tokens_per_second']:,.0f} tokens/s"
    )

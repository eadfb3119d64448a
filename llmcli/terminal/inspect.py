"""What ``llmcli inspect`` shows on a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Sequence
from typing import TYPE_CHECKING

from llmcli.terminal.next import bar, percent, quoted

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from llmcli.tasks.inspect.attention import Attention, HeadMap, HeadSummary
    from llmcli.tasks.inspect.attribution import Attribution
    from llmcli.tasks.inspect.heads import HeadsOff
    from llmcli.tasks.inspect.lens import Lens
    from llmcli.tasks.inspect.neighbours import Neighbours
    from llmcli.tasks.inspect.request import Inspection, Overview

    TokenBytes = Callable[[int], bytes]

# From what share on a cell is drawn with a sign, and its colour of the 256.
_SHADES = ((0.65, "█", 202), (0.35, "▓", 208), (0.15, "▒", 173), (0.05, "░", 180), (0.01, "·", 244))
_LEGEND = "from 1 %: ·  5: ░  15: ▒  35: ▓  65: █"
_MORE, _LESS = "color(208)", "color(75)"
_LABEL = 16  # columns for a token at most
_NARROW = 60  # columns of a terminal where tables go without air
_BAR = 8

# (what a head is measured by, how the grid is headed)
_MEASURES = (
    ("previous", "on the token before, %"),
    ("first", "on the first token, %"),
    ("entropy", "entropy, nats"),
)


def inspect_views(
    seen: Inspection,
    token_bytes: TokenBytes,
    *,
    name: str,
    views: Container[str],
    width: int,
    layer: int | None = None,
    head: int | None = None,
) -> Iterator[RenderableType]:
    """Draw the views that were asked for, one after the other.

    Args:
        seen: What to draw.
        token_bytes: The bytes of a token.
        name: The model's.
        views: Which of those that were seen.
        width: Of the terminal, in columns.
        layer: The layer whose heads are listed; None for a grid of all.
        head: The head of it whose map is drawn.
    """
    if seen.overview is not None and "overview" in views:
        yield overview_view(seen.overview, token_bytes, name=name, tokens=len(seen.tokens))
    if seen.attention is not None and "attention" in views:
        yield from _attention(seen, seen.attention, layer, head, token_bytes, width)
    if seen.lens is not None and "lens" in views:
        yield lens_table(seen.lens, seen.tokens, token_bytes, width=width)
    if seen.attribution is not None and "attribution" in views:
        yield attribution_table(seen.attribution, seen.tokens, token_bytes, width=width)
    if seen.heads_off is not None and "heads_off" in views:
        yield heads_off_table(seen.heads_off, token_bytes, width=width)
    if seen.neighbours is not None and "neighbours" in views:
        yield neighbours_table(seen.neighbours, token_bytes, width=width)


def _table(width: int) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    if width < _NARROW:
        return Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    return Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)


def _text(content: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(content, style=style)


def _group(*parts: RenderableType) -> RenderableType:
    from rich.console import Group

    return Group(*parts)


def _label(data: bytes, most: int = _LABEL) -> str:
    shown = quoted(data)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


# -- overview ------------------------------------------------------------------------------


def overview_view(
    seen: Overview, token_bytes: TokenBytes, *, name: str, tokens: int
) -> RenderableType:
    """A first look: what comes next, where that settles, the heads that stand out."""
    from rich.table import Table

    token, logprob = seen.prediction
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    where = "at the embedding" if seen.settled < 0 else f"after layer {seen.settled}"
    heads = [
        ("look at the token before", seen.previous, "previous", "{:.0%}"),
        ("look at the first token", seen.first, "first", "{:.0%}"),
        ("look widest", seen.spread, "entropy", "{:.2f} nats"),
    ]
    grid.add_row("model", f"{seen.n_layers} layers of {seen.n_heads} heads")
    grid.add_row("text", f"{tokens} tokens" if tokens > 1 else "1 token")
    grid.add_row("next token", f"{quoted(token_bytes(token))} {percent(math.exp(logprob))}")
    grid.add_row("settles", f"{where} (the last is {seen.n_layers - 1})")
    for title, found, measure, form in heads:
        shown = [f"{_name(each)} ({form.format(getattr(each, measure))})" for each in found]
        grid.add_row(title, ", ".join(shown))
    more = "Heads are LAYER.HEAD. More: --attention, --lens, --attribute, --html FILE."
    return _group(_text(name, "bold"), grid, _text(more, "dim"))


def _name(head: HeadSummary) -> str:
    return f"{head.layer}.{head.head}"


# -- attention -----------------------------------------------------------------------------


def _attention(
    seen: Inspection,
    attention: Attention,
    layer: int | None,
    head: int | None,
    token_bytes: TokenBytes,
    width: int,
) -> Iterator[RenderableType]:
    if layer is None:
        yield head_grids(attention.heads, seen.n_heads, width=width)
        yield _text("Rows are layers, columns heads. --layer L --head H draws one.", "dim")
        return
    yield layer_table([each for each in attention.heads if each.layer == layer], width=width)
    if head is None:
        yield _text("--head H draws one of them.", "dim")
        return
    tokens = [token_bytes(each) for each in seen.tokens[attention.start : attention.end]]
    (drawn,) = (each for each in attention.maps if (each.layer, each.head) == (layer, head))
    yield heat_map(drawn, tokens, start=attention.start, width=width)


def head_grids(heads: Sequence[HeadSummary], n_heads: int, *, width: int) -> RenderableType:
    """All heads of a model by each measure, layers down and heads across."""
    from rich.table import Table

    cell = next((size for size in (4, 2, 1) if 4 + size * n_heads <= width), 1)
    most = max(each.entropy for each in heads)
    grids = []
    for measure, title in _MEASURES:
        scale = most if measure == "entropy" and most > 0 else 1.0
        step = 1 if cell == 4 else 5
        header = "    " + "".join(
            (str(head) if head % step == 0 else "").rjust(cell)[-cell:] for head in range(n_heads)
        )
        drawn = _text("").append(title + "\n", "bold").append(header.rstrip(), "dim")
        for each in heads:
            value = getattr(each, measure)
            if each.head == 0:
                drawn.append(f"\n{each.layer:>3} ", "dim")
            sign, style = _shade(value / scale)
            form = f"{value:.1f}" if measure == "entropy" else f"{100 * value:.0f}"
            drawn.append(form.rjust(cell) if cell == 4 else sign * cell, style)
        grids.append(drawn)
    if len(_MEASURES) * (max(4 + cell * n_heads, 22) + 3) - 3 > width:
        return _group(*[part for grid in grids for part in (grid, "")][:-1])
    table = Table.grid(padding=(0, 3))
    table.add_row(*grids)
    return table


def _shade(share: float) -> tuple[str, str]:
    return next(
        ((sign, f"color({color})") for least, sign, color in _SHADES if share >= least),
        (" ", "color(244)"),
    )


def layer_table(heads: Sequence[HeadSummary], *, width: int) -> RenderableType:
    """The heads of a layer, a line each."""
    table = _table(width)
    table.add_column("head", no_wrap=True)
    wide = width >= 70
    for title in ("entropy", "token before", "first token"):
        table.add_column(title, justify="right", no_wrap=wide)
        if wide:
            table.add_column("", no_wrap=True, min_width=_BAR)
    most = max(each.entropy for each in heads) or 1.0
    for each in heads:
        cells: list[Text] = []
        for shown, share in (
            (f"{each.entropy:.3f}", each.entropy / most),
            (f"{each.previous:.1%}", each.previous),
            (f"{each.first:.1%}", each.first),
        ):
            cells.append(_text(shown))
            if wide:
                cells.append(_text(_short_bar(share), _shade(share)[1]))
        table.add_row(_name(each), *cells)
    return table


def _short_bar(share: float) -> str:
    return bar(share * _BAR / 20)


def heat_map(head: HeadMap, tokens: Sequence[bytes], *, start: int, width: int) -> RenderableType:
    """The attention matrix of a head: a row a query, a column a key.

    Where the columns do not suffice, the last tokens are drawn.
    """
    labels = [_label(each) for each in tokens]
    digits = len(str(start + len(tokens) - 1))
    margin = digits + 1 + max(map(len, labels)) + 1
    room = max(1, width - margin)
    cell = 2 if 2 * len(tokens) <= room else 1
    skipped = max(0, len(tokens) - room // cell)
    rows = head.weights[skipped:, skipped:].tolist()
    title = f"head {head.layer}.{head.head}: each row says whom its token attends to"
    if skipped:
        title += f" (the last {len(rows)} of {len(tokens)} tokens)"
    drawn = _text("").append(title + "\n", "bold")
    header = [" "] * (cell * len(rows) + digits)
    for column in range(len(rows)):
        index = start + skipped + column
        if index % 5 == 0:
            place = cell * column
            header[place : place + len(str(index))] = str(index)
    drawn.append(" " * margin + "".join(header).rstrip() + "\n", "dim")
    for place, row in enumerate(rows):
        index = skipped + place
        drawn.append(f"{start + index:>{digits}} ", "dim")
        drawn.append(labels[index].ljust(margin - digits - 1))
        for weight in row[: place + 1]:
            sign, style = _shade(weight)
            drawn.append(sign * cell, style)
        drawn.append("\n")
    drawn.append(_LEGEND, "dim")
    return drawn


# -- lens ----------------------------------------------------------------------------------


def lens_table(
    lens: Lens, tokens: Sequence[int], token_bytes: TokenBytes, *, width: int
) -> RenderableType:
    """What each layer would say next, at the last position looked at."""
    position = lens.start + len(lens.layers[0]) - 1
    where = f"after token {position}, {_label(token_bytes(tokens[position]))}"
    table = _table(width)
    table.add_column("layer", no_wrap=True)
    for title in ("KL", "rank"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    rows = [row[-1] for row in lens.layers]
    most = 14 if width >= _NARROW else 12
    known = [[_label(token_bytes(token), most) for token, _ in cell.top] for cell in rows]
    widest = max(len(label) for labels in known for label in labels)
    shown = max(1, min(len(known[0]), (width - 26) // (widest + 8)))
    for place in range(shown):
        table.add_column("likeliest" if place == 0 else "", no_wrap=True)
    for index, (cell, labels) in enumerate(zip(rows, known, strict=True)):
        style = "" if cell.agrees else "dim"
        table.add_row(
            "embed" if index == 0 else str(index - 1),
            f"{cell.kl:.3f}",
            str(cell.rank),
            "●" if cell.agrees else "",
            *(
                _text(f"{label.ljust(widest)} {math.exp(logprob):>4.0%}", style)
                for label, (_, logprob) in list(zip(labels, cell.top, strict=True))[:shown]
            ),
        )
    lines = (
        "Each layer's state through the final norm and the output layer. KL is from the final\n"
        "distribution, in nats; rank is that of the final choice; ● is where it comes first."
    )
    return _group(
        _text(where, "bold"),
        table,
        _text(lines if width >= 88 else lines.replace("\n", " "), "dim"),
    )


# -- attribution ---------------------------------------------------------------------------


def attribution_table(
    seen: Attribution, tokens: Sequence[int], token_bytes: TokenBytes, *, width: int
) -> RenderableType:
    """The influence of each token by each method, in nats."""
    methods = (
        ("leave\none out", seen.leave_one_out),
        ("input ×\ngradient", seen.input_x_gradient),
        ("integrated\ngradients", seen.integrated_gradients),
    )
    wide = width >= 76
    table = _table(width)
    table.add_column("token", no_wrap=True)
    for title, _ in methods:
        table.add_column(title, justify="right", no_wrap=True)
        if wide:
            table.add_column("", no_wrap=True, min_width=_BAR)
    most = [max(map(abs, values)) or 1.0 for _, values in methods]
    for index, token in enumerate(tokens):
        cells: list[Text] = []
        for (_, values), largest in zip(methods, most, strict=True):
            value = values[index]
            style = _MORE if value >= 0 else _LESS
            cells.append(_text(f"{value:+.3f}", style))
            if wide:
                cells.append(_text(_short_bar(abs(value) / largest), style))
        table.add_row(_text(_label(token_bytes(token), 14 if wide else 11)), *cells)
    return _group(
        _text(f"{_asked(seen, token_bytes)} = {seen.value:.3f} nats", "bold"),
        table,
        _text(_method_notes(seen, token_bytes), "dim"),
    )


def _asked(seen: Attribution, token_bytes: TokenBytes) -> str:
    asked = f"log p({quoted(token_bytes(seen.target))})"
    if seen.contrast is None:
        return asked
    return f"{asked} - log p({quoted(token_bytes(seen.contrast))})"


def _method_notes(seen: Attribution, token_bytes: TokenBytes) -> str:
    blank = "the mean embedding" if seen.baseline is None else quoted(token_bytes(seen.baseline))
    return (
        f"Integrated gradients: from {blank} everywhere ({seen.baseline_value:.3f}), "
        f"{seen.steps} steps, completeness error {seen.completeness_error:.2%}.\n"
        "A measure of influence under each method, not the reason for the prediction."
    )


# -- heads off, neighbours -----------------------------------------------------------------


def heads_off_table(seen: HeadsOff, token_bytes: TokenBytes, *, width: int) -> RenderableType:
    """The next token with all heads and without some."""
    table = _table(width)
    table.add_column("token", no_wrap=True)
    for title in ("all heads", "without", "log ratio"):
        table.add_column(title, justify="right", no_wrap=True)
    for each in seen.candidates:
        change = each.without - each.logprob
        table.add_row(
            _text(_label(token_bytes(each.id), 14 if width >= _NARROW else 11)),
            percent(math.exp(each.logprob)),
            percent(math.exp(each.without)),
            _text(f"{change:+.3f}", _MORE if change >= 0 else _LESS),
        )
    names = ", ".join(f"{layer}.{head}" for layer, head in seen.heads)
    lines = f"without {names}: KL {seen.kl:.4f} nats for the next token"
    if seen.nll is not None and seen.nll_without is not None:
        lines += f"\nthe text: {seen.nll:.4f} nats a token, {seen.nll_without:.4f} without"
    return _group(table, _text(lines, "dim"))


def neighbours_table(seen: Neighbours, token_bytes: TokenBytes, *, width: int) -> RenderableType:
    """The nearest tokens, each with its cosine."""
    table = _table(width)
    table.add_column(f"near {_label(token_bytes(seen.token), 20)}", no_wrap=True)
    table.add_column("id", justify="right", no_wrap=True)
    table.add_column("cosine", justify="right", no_wrap=True)
    for token, cosine in seen.nearest:
        table.add_row(_text(_label(token_bytes(token))), str(token), f"{cosine:.3f}")
    return table

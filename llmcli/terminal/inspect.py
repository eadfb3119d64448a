"""What ``llmcli inspect`` shows on a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Sequence
from typing import TYPE_CHECKING

from llmcli.terminal.next import percent, quoted
from llmcli.terminal.palette import DIM, mark_sgr, sign_sgr
from llmcli.terminal.table import Bar, Column, Styled, Table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from llmcli.tasks.inspect.attention import Attention, HeadMap, HeadSummary
    from llmcli.tasks.inspect.attribution import Attribution
    from llmcli.tasks.inspect.heads import HeadsOff
    from llmcli.tasks.inspect.lens import Lens
    from llmcli.tasks.inspect.neighbours import Neighbours
    from llmcli.tasks.inspect.request import Inspection, Overview

    TokenBytes = Callable[[int], bytes]

# From what share on a cell is drawn with a sign.
_SHADES = ((0.65, "█"), (0.35, "▓"), (0.15, "▒"), (0.05, "░"), (0.01, "·"))
_LEGEND = "from 1 %: ·  5: ░  15: ▒  35: ▓  65: █"
_LABEL = 16  # columns for a token beside a map
_CANDIDATES = 5  # of a layer
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
        yield attribution_table(seen.attribution, seen.tokens, token_bytes)
    if seen.heads_off is not None and "heads_off" in views:
        yield heads_off_table(seen.heads_off, token_bytes)
    if seen.neighbours is not None and "neighbours" in views:
        yield neighbours_table(seen.neighbours, token_bytes)


def _text(content: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(content, style=style)


def _group(*parts: RenderableType) -> RenderableType:
    from rich.console import Group

    return Group(*parts)


def _label(data: bytes) -> str:
    shown = quoted(data)
    return shown if len(shown) <= _LABEL else shown[: _LABEL - 1] + "…"


# -- overview ------------------------------------------------------------------------------


def overview_view(
    seen: Overview, token_bytes: TokenBytes, *, name: str, tokens: int
) -> RenderableType:
    """A first look: what comes next, where that settles, the heads that stand out."""
    token, logprob = seen.prediction
    grid = Table(Column(), Column("", "wrapped"), header=False)
    where = "at the embedding" if seen.settled < 0 else f"after layer {seen.settled}"
    heads = [
        ("look at the token before", seen.previous, "previous", "{:.0%}"),
        ("look at the first token", seen.first, "first", "{:.0%}"),
        ("look widest", seen.spread, "entropy", "{:.2f} nats"),
    ]
    grid.add("model", f"{seen.n_layers} layers of {seen.n_heads} heads")
    grid.add("text", f"{tokens} tokens" if tokens > 1 else "1 token")
    grid.add("next token", f"{quoted(token_bytes(token))} {percent(math.exp(logprob))}")
    grid.add("settles", f"{where} (the last is {seen.n_layers - 1})")
    for title, found, measure, form in heads:
        shown = [f"{_name(each)} ({form.format(getattr(each, measure))})" for each in found]
        grid.add(title, ", ".join(shown))
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
    yield layer_table([each for each in attention.heads if each.layer == layer])
    if head is None:
        yield _text("--head H draws one of them.", "dim")
        return
    tokens = [token_bytes(each) for each in seen.tokens[attention.start : attention.end]]
    (drawn,) = (each for each in attention.maps if (each.layer, each.head) == (layer, head))
    yield heat_map(drawn, tokens, start=attention.start, width=width)


def head_grids(heads: Sequence[HeadSummary], n_heads: int, *, width: int) -> RenderableType:
    """All heads of a model by each measure, layers down and heads across."""
    from rich.table import Table as Grid

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
            form = f"{value:.1f}" if measure == "entropy" else f"{100 * value:.0f}"
            shade = _shade(value / scale) * cell
            drawn.append(form.rjust(cell) if cell == 4 else shade)
        grids.append(drawn)
    if len(_MEASURES) * (max(4 + cell * n_heads, 22) + 3) - 3 > width:
        return _group(*[part for grid in grids for part in (grid, "")][:-1])
    side_by_side = Grid.grid(padding=(0, 3))
    side_by_side.add_row(*grids)
    return side_by_side


def _shade(share: float) -> str:
    return next((sign for least, sign in _SHADES if share >= least), " ")


def layer_table(heads: Sequence[HeadSummary]) -> RenderableType:
    """The heads of a layer, a line each."""
    table = Table(
        Column("head"),
        Column("entropy", "number"),
        Column("", "bar", rank=1),
        Column("token before", "number"),
        Column("", "bar", rank=2),
        Column("first token", "number"),
        Column("", "bar", rank=3),
        longest_bar=_BAR,
    )
    most = max(each.entropy for each in heads) or 1.0
    for each in heads:
        table.add(
            _name(each),
            f"{each.entropy:.3f}",
            Bar(each.entropy / most, mark_sgr()),
            f"{each.previous:.1%}",
            Bar(each.previous, mark_sgr()),
            f"{each.first:.1%}",
            Bar(each.first, mark_sgr()),
        )
    return table


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
            drawn.append(_shade(weight) * cell)
        drawn.append("\n")
    drawn.append(_LEGEND, "dim")
    return drawn


# -- lens ----------------------------------------------------------------------------------


def lens_table(
    lens: Lens, tokens: Sequence[int], token_bytes: TokenBytes, *, width: int
) -> RenderableType:
    """What each layer would say next, at the last position looked at."""
    position = lens.start + len(lens.layers[0]) - 1
    where = f"after token {position}, {quoted(token_bytes(tokens[position]))}"
    rows = [row[-1] for row in lens.layers]
    known = [[quoted(token_bytes(token)) for token, _ in cell.top[:_CANDIDATES]] for cell in rows]
    widest = max(len(label) for labels in known for label in labels)
    table = Table(
        Column("layer"),
        Column("KL", "number"),
        Column("rank", "number"),
        Column(),
        Column("likeliest"),
        *(Column(f"{place}.", rank=place) for place in range(2, len(known[0]) + 1)),
    )
    for index, (cell, labels) in enumerate(zip(rows, known, strict=True)):
        sgr = "" if cell.agrees else DIM
        table.add(
            "embed" if index == 0 else str(index - 1),
            f"{cell.kl:.3f}",
            str(cell.rank),
            "●" if cell.agrees else "",
            *(
                Styled(f"{label.ljust(widest)} {math.exp(logprob):>4.0%}", sgr)
                for label, (_, logprob) in zip(labels, cell.top, strict=False)
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
    seen: Attribution, tokens: Sequence[int], token_bytes: TokenBytes
) -> RenderableType:
    """The influence of each token by each method, in nats."""
    methods = (
        ("leave\none out", seen.leave_one_out),
        ("input ×\ngradient", seen.input_x_gradient),
        ("integrated\ngradients", seen.integrated_gradients),
    )
    table = Table(
        Column("token"),
        *(
            column
            for place, (title, _) in enumerate(methods)
            for column in (Column(title, "number", rank=place), Column("", "bar", rank=3 + place))
        ),
        longest_bar=_BAR,
    )
    most = [max(map(abs, values)) or 1.0 for _, values in methods]
    for index, token in enumerate(tokens):
        cells: list[Styled | Bar] = []
        for (_, values), largest in zip(methods, most, strict=True):
            value = values[index]
            cells.append(Styled(f"{value:+.3f}", sign_sgr(value)))
            cells.append(Bar(abs(value) / largest, sign_sgr(value)))
        table.add(quoted(token_bytes(token)), *cells)
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


def heads_off_table(seen: HeadsOff, token_bytes: TokenBytes) -> RenderableType:
    """The next token with all heads and without some."""
    table = Table(
        Column("token"),
        Column("all heads", "number", rank=1),
        Column("without", "number"),
        Column("log ratio", "number"),
    )
    for each in seen.candidates:
        change = each.without - each.logprob
        table.add(
            quoted(token_bytes(each.id)),
            percent(math.exp(each.logprob)),
            percent(math.exp(each.without)),
            Styled(f"{change:+.3f}", sign_sgr(change)),
        )
    names = ", ".join(f"{layer}.{head}" for layer, head in seen.heads)
    lines = f"without {names}: KL {seen.kl:.4f} nats for the next token"
    if seen.nll is not None and seen.nll_without is not None:
        lines += f"\nthe text: {seen.nll:.4f} nats a token, {seen.nll_without:.4f} without"
    return _group(table, _text(lines, "dim"))


def neighbours_table(seen: Neighbours, token_bytes: TokenBytes) -> RenderableType:
    """The nearest tokens, each with its cosine."""
    table = Table(
        Column(f"near {quoted(token_bytes(seen.token))}"),
        Column("id", "number"),
        Column("cosine", "number"),
    )
    for token, cosine in seen.nearest:
        table.add(quoted(token_bytes(token)), str(token), f"{cosine:.3f}")
    return table

"""Tables that fit their terminal: what matters least goes first, and no figure is cut."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal

from llmcli.terminal.escaping import one_line
from llmcli.terminal.palette import DIM, painted

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.console import ConsoleOptions, RenderResult

    from llmcli.terminal.console import Console

Kind = Literal["text", "wrapped", "cut", "number", "bar"]

_GAP = 2
_SHORTEST_BAR = 6
_NARROW, _NARROWEST = 12, 4  # columns of text that is wrapped or cut, where there is no room
_LONG_WORD = 20  # columns of a word that is broken before a whole column is left out
_CUT = 60  # columns of text that is cut, where there is no end of room
_EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: What stands above it; a newline breaks it.
        kind: "text" is shown whole on one line; "wrapped" may go over several; of "cut" the
            beginning is shown where there is no room for all; a "number" stands to the right; a
            "bar" takes the room that is left.
        rank: 0 is always shown. Of the others the highest rank goes first on a narrow terminal.
    """

    title: str = ""
    kind: Kind = "text"
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Styled:
    """Text in a colour, as SGR parameters."""

    text: str
    sgr: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A share of 1, drawn.

    Attributes:
        share: From 0 to 1.
        sgr: Its colour, as SGR parameters.
        mark: A second share, where a | stands; the rest of the bar is dotted then.
    """

    share: float
    sgr: str = ""
    mark: float | None = None

    def drawn(self, width: int) -> str:
        """The bar in so many columns at most."""
        if self.mark is None:
            eighths = round(self.share * width * 8)
            return _EIGHTHS[8] * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
        full = round(self.share * (width - 1))
        cells = list("█" * full + "·" * (width - 1 - full) + " ")
        cells[round(self.mark * (width - 1))] = "|"
        return "".join(cells).rstrip()


class Table:
    """Rows under titles.

    On a terminal it fits the width, and a last line names the columns that were left out. A pipe
    gets all columns, however wide they are together, unless ``COLUMNS`` is set.

    Args:
        columns: From left to right.
        header: Whether the titles are shown.
        longest_bar: In columns.
    """

    def __init__(self, *columns: Column, header: bool = True, longest_bar: int = 20) -> None:
        self._columns = columns
        self._header = header
        self._longest_bar = longest_bar
        self._rows: list[list[Styled | Bar]] = []

    def add(self, *cells: str | Styled | Bar) -> None:
        """Add a row; text is made safe for a terminal."""
        self._rows.append(
            [
                each if isinstance(each, Bar) else Styled(one_line(each.text), each.sgr)
                for each in (Styled(cell, "") if isinstance(cell, str) else cell for cell in cells)
            ]
        )

    def write(self, console: Console) -> None:
        """Write it to stdout, without the help of rich."""
        for line in self.lines(console.table_width):
            console.write_raw("".join(console.styled(text, sgr) for text, sgr in line) + "\n")

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        """Draw it as a part of something larger."""
        from rich.text import Text

        for line in self.lines(options.max_width if console.is_terminal else None):
            shown = "".join(painted(text, sgr) for text, sgr in line)
            yield Text.from_ansi(shown, no_wrap=True, overflow="ignore")

    def lines(self, width: int | None) -> Iterator[list[tuple[str, str]]]:
        """Draw it in so many columns (None for any number): pieces of text and their SGR."""
        shown, widths = self._fitted(width)
        if self._header:
            titles = [
                _broken(self._columns[index].title, each)
                for index, each in zip(shown, widths, strict=True)
            ]
            most = max(map(len, titles))
            lifted = [[""] * (most - len(title)) + title for title in titles]
            yield from self._beside(lifted, [DIM] * len(shown), shown, widths)
        for row in self._rows:
            drawn, colours = [], []
            for index, each in zip(shown, widths, strict=True):
                cell = row[index]
                colours.append(cell.sgr)
                if isinstance(cell, Bar):
                    drawn.append([cell.drawn(each)])
                elif self._columns[index].kind == "wrapped":
                    drawn.append(_wrapped(cell.text, each))
                elif self._columns[index].kind == "cut":
                    drawn.append([cut(cell.text, each)])
                else:
                    drawn.append([cell.text])
            yield from self._beside(drawn, colours, shown, widths)
        left = [each.title for index, each in enumerate(self._columns) if index not in shown]
        if names := ", ".join(" ".join(title.split()) for title in left if title):
            for line in _wrapped(f"A wider terminal also shows: {names}", width or _CUT):
                yield [(line, DIM)]

    def _beside(
        self,
        cells: Sequence[Sequence[str]],
        colours: Sequence[str],
        shown: Sequence[int],
        widths: Sequence[int],
    ) -> Iterator[list[tuple[str, str]]]:
        """The lines of a row, of cells of one line or several."""
        for line in zip_longest(*cells, fillvalue=""):
            pieces: list[tuple[str, str]] = []
            gap = 0
            for text, sgr, index, width in zip(line, colours, shown, widths, strict=True):
                space = max(0, width - cell_len(text))
                before = space if self._columns[index].kind == "number" else 0
                if text:
                    pieces += [(" " * (gap + before), ""), (text, sgr)]
                    gap = 0
                else:
                    gap += before
                gap += space - before + _GAP
            yield pieces

    def _fitted(self, width: int | None) -> tuple[list[int], list[int]]:
        """The columns that are shown, and how wide each is."""
        shown = list(range(len(self._columns)))
        natural = [self._natural(index) for index in shown]
        if width is None:
            kinds = [each.kind for each in self._columns]
            return shown, [
                min(each, _CUT) if kind == "cut" else each
                for kind, each in zip(kinds, natural, strict=True)
            ]
        least = [self._least(index, natural[index]) for index in shown]
        while _total([least[index] for index in shown]) > width:
            ranked = [index for index in shown if self._columns[index].rank]
            if not ranked:
                break
            shown.remove(max(ranked, key=lambda index: (self._columns[index].rank, index)))
        widths = {index: least[index] for index in shown}
        room = width - _total(list(widths.values()))
        if room < 0:  # words are broken before a figure is
            for index in shown:
                if self._columns[index].kind in ("wrapped", "cut"):
                    less = min(-room, max(0, widths[index] - _NARROWEST))
                    widths[index] -= less
                    room += less
        # Text comes before bars; each has its share, and leaves what it does not need.
        for bars in (False, True):
            wishes = [
                (natural[index] - widths[index], index)
                for index in shown
                if (self._columns[index].kind == "bar") is bars
            ]
            for place, (wish, index) in enumerate(sorted(wishes)):
                more = max(0, min(wish, room // (len(wishes) - place)))
                widths[index] += more
                room -= more
        return shown, [widths[index] for index in shown]

    def _natural(self, index: int) -> int:
        """How wide a column would like to be."""
        column = self._columns[index]
        title = max(map(len, column.title.split("\n"))) if self._header else 0
        if column.kind == "bar":
            return max(title, self._longest_bar)
        return max([title, *(cell_len(_text(row[index])) for row in self._rows)])

    def _least(self, index: int, natural: int) -> int:
        """How narrow a column may be without a loss."""
        column = self._columns[index]
        title = max(map(len, _words(column.title))) if self._header else 0
        if column.kind == "bar":
            return max(title, _SHORTEST_BAR)
        if column.kind == "cut":
            return min(natural, max(title, _NARROW))
        if column.kind == "wrapped":
            words = [cell_len(word) for row in self._rows for word in _text(row[index]).split()]
            return min(natural, max(title, _NARROW, min(_LONG_WORD, max(words, default=0))))
        return max([title, *(cell_len(_text(row[index])) for row in self._rows)])


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _text(cell: Styled | Bar) -> str:
    return "" if isinstance(cell, Bar) else cell.text


def cell_len(text: str) -> int:
    """How many columns a terminal gives to a text."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len as columns_of

    return columns_of(text)


def cut(text: str, width: int) -> str:
    """The beginning of a text, with an ellipsis where it does not fit."""
    return text if cell_len(text) <= width else f"{_chopped(text, width - 1)[0].rstrip()}…"


def _chopped(text: str, width: int) -> list[str]:
    """A text in pieces of so many columns."""
    pieces, column = [""], 0
    for sign in text:
        wide = cell_len(sign)
        if column and column + wide > width:
            pieces.append("")
            column = 0
        pieces[-1] += sign
        column += wide
    return pieces


def _wrapped(text: str, width: int) -> list[str]:
    """A text in lines of so many columns, broken between words where that is possible."""
    if cell_len(text) <= width:
        return [text]
    lines = [""]
    for word in re.findall(r"\s*\S+", text):
        if not lines[-1] or cell_len(lines[-1]) + cell_len(word) <= width:
            lines[-1] += word
        else:
            lines.append(word.lstrip())
        *full, lines[-1] = _chopped(lines[-1], width)
        lines[-1:-1] = full
    return lines


def _words(title: str) -> list[str]:
    """Where a title may be broken: behind spaces and hyphens."""
    return re.findall(r"[^\s-]*-|[^\s-]+", title) or [""]


def _broken(title: str, width: int) -> list[str]:
    """The lines of a title in so many columns."""
    lines = []
    for line in title.split("\n"):
        held = ""
        for part in re.findall(r"\s*(?:[^\s-]*-|[^\s-]+)", line):
            if held and len(held + part) > width:
                lines.append(held)
                held = part.lstrip()
            else:
                held += part
        lines.append(held)
    return lines

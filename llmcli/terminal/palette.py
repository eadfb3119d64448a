"""The colours of all that shows tokens: tints behind text, and a few colours for figures.

A tint sets the colour of its text, too, so it reads the same on a light and on a dark terminal.
Steps of a ramp differ in lightness and the others in more than one way, so colour-blind eyes tell
them apart; the tests compute both, and the contrast.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

DIM = "2"

Depth = Literal["standard", "256", "truecolor"]
"""How many colours a terminal has, as rich names it; "standard" is 16."""


def color_depth() -> Depth:
    """What the terminal says of itself in ``COLORTERM`` and ``TERM``."""
    if os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        return "truecolor"
    term = os.environ.get("TERM", "")
    return "256" if "256color" in term or "kitty" in term else "standard"


@dataclass(frozen=True, slots=True)
class Tint:
    """A background and the colour of text on it.

    Attributes:
        standard: SGR parameters where there are 16 colours, both of text and background.
        indexed: The background of the 256 colours; the text is black.
        rgb: The background where all colours are there; the text is black.
    """

    standard: str
    indexed: int
    rgb: tuple[int, int, int]

    def sgr(self, depth: Depth) -> str:
        """SGR parameters."""
        if depth == "standard":
            return self.standard
        # Black of the cube: that of the 16 is whatever the terminal's theme makes of it.
        if depth == "256":
            return f"38;5;16;48;5;{self.indexed}"
        return "38;2;0;0;0;48;2;{};{};{}".format(*self.rgb)


SURPRISAL = (
    (1.0, Tint("30;103", 230, (255, 247, 205))),
    (2.0, Tint("30;103", 222, (254, 217, 140))),
    (4.0, Tint("30;101", 215, (253, 181, 94))),
    (6.0, Tint("30;101", 209, (249, 142, 82))),
    (9.0, Tint("97;41", 203, (234, 102, 82))),
    (13.0, Tint("97;41", 167, (206, 76, 82))),
)
"""From this many bits on, this tint; below the first there is none."""

ALTERNATING = (
    Tint("30;106", 153, (175, 215, 255)),
    Tint("30;103", 223, (255, 215, 175)),
    Tint("30;106", 189, (215, 215, 255)),
    Tint("30;103", 229, (255, 255, 175)),
)
"""One after the other, where a tint says no more than where a token ends."""

# Of the 256 colours these are read on white and on black alike (4.5 : 1).
_MARK, _MORE, _LESS = 63, 131, 63


def mark_sgr() -> str:
    """SGR parameters for bars and charts; none where there are only 16 colours."""
    return _foreground(_MARK)


def sign_sgr(value: float) -> str:
    """SGR parameters for a change: one colour for more, one for less."""
    return _foreground(_MORE if value >= 0 else _LESS)


def _foreground(color: int) -> str:
    return "" if color_depth() == "standard" else f"38;5;{color}"


def surprisal_sgr(bits: float | None) -> str:
    """SGR parameters for a token of this surprisal; empty below the first tint and for None."""
    depth, found = color_depth(), ""
    for least, tint in SURPRISAL:
        if bits is not None and bits >= least:
            found = tint.sgr(depth)
    return found


def alternating_sgr(index: int) -> str:
    """SGR parameters for the token at this place."""
    return ALTERNATING[index % len(ALTERNATING)].sgr(color_depth())


def painted(text: str, sgr: str) -> str:
    """Text in a colour; as it is without one."""
    if not sgr:
        return text
    # A line's colour ends with it, or the terminal would paint the rest of the next one.
    return "\n".join(f"\x1b[{sgr}m{line}\x1b[0m" if line else "" for line in text.split("\n"))


def surprisal_legend(width: int) -> str:
    """What the tints of :data:`SURPRISAL` mean, in lines of so many columns.

    Levels that look alike are one.
    """
    depth = color_depth()
    edges = [(f"{least:g}", tint.sgr(depth)) for least, tint in SURPRISAL]
    runs = [next(run) for _, run in groupby(edges, key=lambda edge: edge[1])]
    cells = [("surprisal in bits:", ""), (f"below {runs[0][0]}", "")]
    cells += [(f" {low}–{high} ", sgr) for (low, sgr), (high, _) in pairwise(runs)]
    cells.append((f" {runs[-1][0]}+ ", runs[-1][1]))
    lines, column = [""], 0
    for text, sgr in cells:
        if column and column + 1 + len(text) > width:
            lines.append("")
            column = 0
        lines[-1] += (" " if column else "") + painted(text, sgr)
        column += len(text) + (1 if column else 0)
    return "\n".join(lines)

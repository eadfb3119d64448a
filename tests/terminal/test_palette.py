"""The palette, computed: contrast, lightness, and what colour-blind eyes see of it."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from numpy.typing import NDArray

from llmcli.terminal.palette import (
    ALTERNATING,
    SURPRISAL,
    Depth,
    Tint,
    color_depth,
    mark_sgr,
    painted,
    sign_sgr,
    surprisal_legend,
    surprisal_sgr,
)

Color = tuple[int, int, int]
DEPTHS: tuple[Depth, ...] = ("standard", "256", "truecolor")
BLACK, WHITE = (0, 0, 0), (255, 255, 255)

# The 16 colours as xterm and as the VGA console paint them, by the SGR of a background.
SIXTEEN: dict[str, dict[int, Color]] = {
    "xterm": {41: (205, 0, 0), 101: (255, 0, 0), 103: (255, 255, 0), 106: (0, 255, 255)},
    "vga": {41: (170, 0, 0), 101: (255, 85, 85), 103: (255, 255, 85), 106: (85, 255, 255)},
}
TEXT = {30: BLACK, 97: WHITE}

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
EYES = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
# sRGB to XYZ (D65), IEC 61966-2-1.
TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)  # fmt: skip


def linear(color: Color) -> NDArray[np.float64]:
    share = np.array(color) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def contrast(one: Color, other: Color) -> float:
    """As WCAG 2 defines it."""
    low, high = sorted(float(TO_XYZ[1] @ linear(each)) for each in (one, other))
    return (high + 0.05) / (low + 0.05)


def difference(one: Color, other: Color, eyes: str) -> float:
    """CIE 1976, of what these eyes see."""

    def lab(color: Color) -> NDArray[np.float64]:
        seen = np.clip(EYES[eyes] @ linear(color), 0, 1)
        share = TO_XYZ @ seen / np.array([0.9505, 1.0, 1.089])
        root = np.where(share > 216 / 24389, np.cbrt(share), (24389 / 27 * share + 16) / 116)
        return np.array([116 * root[1], 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])

    return float(np.linalg.norm(lab(one) - lab(other)))


def cube(index: int) -> Color:
    if index >= 232:
        return (8 + 10 * (index - 232),) * 3
    levels = (0, 95, 135, 175, 215, 255)
    return levels[(index - 16) // 36], levels[(index - 16) // 6 % 6], levels[(index - 16) % 6]


def colors(sgr: str, terminal: str) -> tuple[Color, Color]:
    """The text's colour and the background's, of SGR parameters."""
    numbers = [int(each) for each in sgr.split(";")]
    if numbers[:2] == [38, 5]:
        return cube(numbers[2]), cube(numbers[5])
    if numbers[:2] == [38, 2]:
        return tuple(numbers[2:5]), tuple(numbers[7:])  # type: ignore[return-value]
    return TEXT[numbers[0]], SIXTEEN[terminal][numbers[1]]


ALL = [(depth, terminal) for depth in DEPTHS for terminal in SIXTEEN]


@pytest.mark.parametrize(("depth", "terminal"), ALL)
def test_text_is_read_on_every_tint(depth: Depth, terminal: str) -> None:
    """Both colours are set, so a light and a dark terminal show the same."""
    for tint in (*ALTERNATING, *(tint for _, tint in SURPRISAL)):
        assert contrast(*colors(tint.sgr(depth), terminal)) >= 4.5


@pytest.mark.parametrize(("depth", "terminal"), ALL)
def test_levels_of_surprisal_differ_for_all_eyes(depth: Depth, terminal: str) -> None:
    tints = [key for key, _ in itertools.groupby(tint.sgr(depth) for _, tint in SURPRISAL)]
    assert len(tints) == (3 if depth == "standard" else 6)
    for one, other in itertools.pairwise(colors(sgr, terminal)[1] for sgr in tints):
        assert contrast(one, BLACK) / contrast(other, BLACK) >= 1.2, "darker step by step"
        for eyes in EYES:
            assert difference(one, other, eyes) >= 7, eyes


@pytest.mark.parametrize(("depth", "terminal"), ALL)
def test_neighbouring_tokens_differ_for_all_eyes(depth: Depth, terminal: str) -> None:
    tints = [colors(tint.sgr(depth), terminal)[1] for tint in ALTERNATING]
    for one, other in itertools.pairwise([*tints, tints[0]]):
        for eyes in EYES:
            assert difference(one, other, eyes) >= 15, eyes


def test_colours_of_figures_are_read_on_white_and_on_black(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLORTERM", "truecolor")
    found = [int(sgr.removeprefix("38;5;")) for sgr in (mark_sgr(), sign_sgr(1), sign_sgr(-1))]
    for each in found:
        assert contrast(cube(each), WHITE) >= 4.5
        assert contrast(cube(each), BLACK) >= 4.5
    for eyes in EYES:
        assert difference(cube(found[1]), cube(found[2]), eyes) >= 40
    monkeypatch.delenv("COLORTERM")
    monkeypatch.setenv("TERM", "linux")
    assert (mark_sgr(), sign_sgr(1)) == ("", ""), "no colour of 16 is read on both"


@pytest.mark.parametrize(
    ("colorterm", "term", "depth"),
    [
        ("truecolor", "xterm-256color", "truecolor"),
        ("24bit", "screen", "truecolor"),
        ("", "xterm-256color", "256"),
        ("", "xterm-kitty", "256"),
        ("", "xterm", "standard"),
        ("", "linux", "standard"),
        ("", "", "standard"),
    ],
)
def test_depth(monkeypatch: pytest.MonkeyPatch, colorterm: str, term: str, depth: Depth) -> None:
    monkeypatch.setenv("COLORTERM", colorterm)
    monkeypatch.setenv("TERM", term)
    assert color_depth() == depth
    assert surprisal_sgr(0.9) == surprisal_sgr(None) == ""
    assert surprisal_sgr(5.9) == SURPRISAL[2][1].sgr(depth)
    assert surprisal_sgr(50.0) == SURPRISAL[-1][1].sgr(depth)


@pytest.mark.parametrize("term", ["xterm", "xterm-256color"])
@pytest.mark.parametrize("width", [30, 40, 80])
def test_the_legend_has_each_tint_once(
    monkeypatch: pytest.MonkeyPatch, term: str, width: int
) -> None:
    monkeypatch.delenv("COLORTERM", raising=False)
    monkeypatch.setenv("TERM", term)
    legend = surprisal_legend(width)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", legend)
    assert max(map(len, shown.splitlines())) <= width
    tints = re.findall(r"\x1b\[([0-9;]+;[0-9;]+)m", legend)
    assert len(tints) == len(set(tints)) == (3 if term == "xterm" else 6)
    assert shown.split()[:5] == ["surprisal", "in", "bits:", "below", "1"]
    assert shown.split()[-1] == ("9+" if term == "xterm" else "13+")


def test_a_tint_ends_with_its_line() -> None:
    sgr = Tint("30;103", 230, (1, 2, 3)).sgr("standard")
    assert painted("a\n\nb", sgr) == "\x1b[30;103ma\x1b[0m\n\n\x1b[30;103mb\x1b[0m"
    assert painted("a", "") == "a"

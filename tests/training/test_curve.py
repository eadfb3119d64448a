from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from llmcli.training.curve import draw_curve, metric, save_picture


def test_a_line_that_falls() -> None:
    lines = draw_curve([(0, 4.0), (500, 3.0), (1000, 2.0)], width=20, height=5, unit="tokens")
    assert lines[0].startswith("   4.000 ┤•")
    assert lines[4].startswith("   2.000 ┤")
    assert lines[4].rstrip().endswith("•")
    assert lines[-1].split() == ["0", "1k", "tokens"]


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.floats(-50, 50)), min_size=2, max_size=50).map(
        sorted
    ),
    st.integers(8, 100),
    st.integers(2, 20),
)
def test_it_fits(points: list[tuple[int, float]], width: int, height: int) -> None:
    lines = draw_curve(points, width=width, height=height)
    assert len(lines) == height + 2
    assert sum(line.count("•") for line in lines) >= 1
    assert all(len(line) <= width + 10 for line in lines[: height + 1])


def test_two_series() -> None:
    points = [(0, 4.0), (1000, 2.0)]
    lines = draw_curve(points, beside=[(500, 3.0), (1000, 5.0)], width=21, height=5)
    assert lines[0].startswith("   5.000 ┤")
    assert "".join(lines).count("◦") == 2
    assert "".join(lines).count("•") == 2
    assert lines[0].endswith("◦")
    assert lines[4].endswith("•")


def test_nothing_to_draw() -> None:
    assert draw_curve([]) == draw_curve([(10, 4.0)]) == []


def test_the_picture(tmp_path: Path) -> None:
    records = [
        {"tokens": 1, "loss": 3.0},
        {"tokens": 2, "loss": 2.0},
        {"tokens": 2, "validation_loss": 2.5},
    ]
    assert metric(records, "loss") == [(1, 3.0), (2, 2.0)]
    assert save_picture(records, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")

"""Tables in narrow and wide terminals: columns go, figures and names stay whole."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import RenderableType
from terminals import redirect

from llmcli.engine.params import TokenEvent, TopToken
from llmcli.scoring.token_scores import TokenScores
from llmcli.tasks.fill import FillAnswer, Gap
from llmcli.tasks.next import Candidate, NextToken
from llmcli.terminal.bench import bench_table
from llmcli.terminal.calibrate import calibration_view
from llmcli.terminal.calibrate_generations import generations_view
from llmcli.terminal.calibrate_labels import label_calibration_view
from llmcli.terminal.console import Console
from llmcli.terminal.fill import fill_tables
from llmcli.terminal.generate import alternatives_table
from llmcli.terminal.next import next_table
from llmcli.terminal.pairs import pairs_table
from llmcli.terminal.rank import rank_table
from llmcli.terminal.score_table import row_header, row_line, score_table, versus_table
from llmcli.terminal.surprisal import Course
from llmcli.terminal.table import Bar, Column, Table

TEXT = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=30)
WORDS = st.lists(TEXT, min_size=1, max_size=5).map(" ".join)
KINDS = st.sampled_from(["text", "wrapped", "cut", "number", "bar"])
COLUMNS = st.builds(Column, title=st.sampled_from(["", "id", "log-likelihood"]), kind=KINDS,
                    rank=st.integers(0, 3))  # fmt: skip


def drawn(table: Table, width: int | None) -> list[str]:
    return ["".join(text for text, _ in line) for line in table.lines(width)]


@given(st.lists(COLUMNS, min_size=1, max_size=6), st.data(), st.sampled_from([20, 40, 80, 200]))
def test_what_is_shown_is_whole(columns: list[Column], data: st.DataObject, width: int) -> None:
    cells = [
        Bar(0.5) if column.kind == "bar" else data.draw(WORDS if column.kind != "number" else TEXT)
        for column in columns
    ]
    table = Table(*columns, header=False)
    table.add(*cells)
    lines = drawn(table, width)
    every_word = "".join(lines).replace(" ", "")
    for column, cell in zip(columns, cells, strict=True):
        if column.rank == 0 and isinstance(cell, str) and column.kind in ("text", "number"):
            assert cell in "\n".join(lines)
    narrow = [column for column in columns if column.rank == 0 and column.kind != "bar"]
    fixed = [
        cell_len(cell)
        for column, cell in zip(columns, cells, strict=True)
        if isinstance(cell, str) and column in narrow and column.kind in ("text", "number")
    ]
    flexible = sum(column.rank == 0 for column in columns) - len(fixed)
    if sum(fixed) + 6 * flexible + 2 * len(columns) <= width:
        assert max(map(cell_len, lines), default=0) <= width
    if len(columns) == 1 and columns[0].kind == "wrapped":
        assert every_word == str(cells[0]).replace(" ", "")
    pipe = "\n".join(drawn(table, None))
    for column, cell in zip(columns, cells, strict=True):
        if isinstance(cell, str) and column.kind != "cut":
            assert cell in pipe


def test_the_highest_rank_goes_first_and_is_named() -> None:
    columns = (Column("name", "wrapped"), Column("kept", "number"), Column("b", rank=1))
    table = Table(*columns, Column("long\nname", rank=2))
    table.add("a choice of many words in a row", "1234567890", "-", "12345")
    assert drawn(table, None) == [
        "                                                long",
        "name                                   kept  b  name",
        "a choice of many words in a row  1234567890  -  12345",
    ]
    assert drawn(table, 33) == [
        "name                      kept  b",
        "a choice of many    1234567890  -",
        "words in a row",
        "A wider terminal also shows: long",
        "name",
    ]
    assert drawn(table, 24) == [
        "name                kept",
        "a choice of   1234567890",
        "many words",
        "in a row",
        "A wider terminal also",
        "shows: b, long name",
    ]


def test_wide_signs_and_cut_text() -> None:
    table = Table(Column("token"), Column("text", "cut"))
    table.add("'東京'", "many words that no terminal has room for")
    *_, row = drawn(table, 24)
    assert row == "'東京'  many words that…"
    assert cell_len(row) <= 24


def test_a_marked_bar() -> None:
    assert Bar(0.5, mark=1.0).drawn(11) == "█████·····|"
    assert Bar(1.0, mark=0.0).drawn(11) == "|█████████"


# -- the tables of the commands --------------------------------------------------------------

SCORE = {
    "perplexity": 5123.4567,
    "nll_per_token": 1.633912,
    "nll": 14704.776,
    "tokens": 10240,
    "word_perplexity": 6.2846,
    "byte_perplexity": 1.5411,
    "bits_per_byte": 0.62396,
    "words": 8000,
    "bytes": 34000,
    "perplexity_interval": [5000.1, 5234.2],
    "interval": {"block_tokens": 512},
    "convention": "default",
    "context": 1024,
    "stride": 512,
    "bos": True,
    "model": "org/a-model-with-a-long-name",
    "revision": "0123456789abcdef",
    "precision": "float32",
    "seconds": 2.0,
    "tokens_per_second": 5120.0,
}
VERSUS = {
    **SCORE,
    "vs": {**SCORE, "perplexity": 4999.9, "model": "org/another-model"},
    "difference": {
        "nll_per_token": -0.0123456,
        "nll_per_token_interval": [-0.02, -0.01],
        "kl_divergence": 0.0123456,
        "same_top": 0.912,
    },
}
CHOICES = [
    {"choice": "the quick brown fox jumps over the lazy dog and runs away from it",
     "probability": 0.75, "score": -123.4567, "logprob": -1234.5678, "tokens": 18},
    {"choice": "an incomprehensibility", "probability": 0.0000123, "score": -134.1, "logprob": -1.0,
     "tokens": 4},
]  # fmt: skip
BENCH = [
    {"model": "openai-community/gpt2-medium", "precision": precision,
     "prefill_128_tokens_per_second": 1234.5, "prefill_128_deviation": 12.0,
     "decode_batch_1_tokens_per_second": speed, "decode_batch_1_deviation": 1.0,
     "share_of_bandwidth": 0.71, "load_seconds": 1.25, "peak_memory_bytes": 1.4e9}
    for precision, speed in (("float32", 50.0), ("bfloat16", 100.0))
]  # fmt: skip
PAIRS = {
    "by": "kind", "pairs": 1234, "share": 0.6543, "share_interval": [0.6, 0.7], "ties": 12,
    "log_ratio": 0.123,
    "groups": [{"group": "anaphor agreement", "pairs": 1000, "share": 0.75,
                "share_interval": [0.7, 0.8], "ties": 3, "log_ratio": -1.5}],
}  # fmt: skip
BINS = [
    {"low": n / 10, "high": (n + 1) / 10, "accuracy": n / 10, "confidence": n / 10 + 0.05,
     "accuracy_interval": [0.1, 0.2], "tokens": 1234567}
    for n in range(10)
]  # fmt: skip
CALIBRATION: dict[str, Any] = {
    **dict.fromkeys(("nll", "entropy", "ece", "ace", "smece", "smece_width", "mce", "brier"), 1.2),
    **dict.fromkeys(("reliability", "resolution", "uncertainty", "nll_before"), 0.12345),
    "tokens": 123456,
    "accuracy": 0.5,
    "confidence": 0.6,
    "ece_floor": [0.01, 0.02],
    "ece_interval": [0.1, 0.2],
    "temperature": 1.0123,
    "temperature_interval": [0.9, 1.1],
    "nll_after": 3.21,
    "ece_before": 0.1,
    "ece_after": 0.05,
    "bins": BINS,
}
BLOCK = {
    "entropy": 3.123,
    "sampling_entropy": 2.5,
    "surprisal": 2.6,
    "text_nll": 2.9,
    "entce": -0.4,
    "entce_interval": [-0.5, 0.5],
}
GENERATIONS = {
    "blocks": [{**BLOCK, "begin": 64 * n, "end": 64 * n + 64} for n in range(3)],
    "overall": BLOCK,
    "match": None,
}
CORRECTION = {
    **dict.fromkeys(("accuracy", "macro_f1", "nll", "brier", "ece", "aurc"), 0.123),
    "ece_floor": [0.01, 0.02],
}
LABELS = {
    "corrections": [{"correction": "contextual", **CORRECTION}],
    "fit": {"correction": "none", **CORRECTION, "scale": 1.25, "bias": None},
    "inputs": 1000, "held_out": 500,
    "conformal": {"alpha": 0.1, "threshold": 0.4, "coverage": None},
}  # fmt: skip
NEXT = NextToken(
    candidates=tuple(
        Candidate(id=50000 + n, logprob=-n - 0.5, sampled_logprob=-0.25 if n < 2 else None)
        for n in range(4)
    ),
    entropy=2.5,
    filters=(),
)
EVENTS = [
    TokenEvent(
        index=0, text="", token_id=n, token_bytes=b" something", logprob=-0.5,
        top=tuple(TopToken(id=each, logprob=-1.0 - each) for each in range(5)),
    )
    for n in range(3)
]  # fmt: skip
FILL = FillAnswer(
    text="",
    gaps=tuple(Gap(position=at, candidates=tuple(EVENTS[0].top), entropy=2.5) for at in (1, 4)),
    data={n: b" word7" if n == 0 else b"x" for n in range(5)},
    tokens=6,
    model={},
)


def word(token_id: int) -> bytes:
    return f" word{token_id}".encode()


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize(
    ("view", "kept"),
    [
        (next_table(NEXT, word), ["' word50003'", f"{math.exp(-0.5):.2%}"]),
        (fill_tables(FILL), ["gap 2", "' word7'", "36.79%", "2.500 nats"]),
        (rank_table(CHOICES, "none"), ["75.00%", "1.2e-05", "incomprehensibility"]),
        (rank_table(CHOICES, "pmi"), ["75.00%", "1.2e-05", "incomprehensibility"]),
        (score_table(SCORE), ["5,123.5", "14,704.776", "5,000.1", "34,000", "0.62396"]),
        (versus_table(VERSUS), ["org/a-model-with-a-long-name", "org/another-model", "-123.6"]),
        (bench_table(BENCH), ["float32", "bfloat16", "100 ±1", "50 ±1"]),
        (pairs_table(PAIRS), ["65.43%", "75.00%"]),
        (calibration_view(CALIBRATION), ["123,456", "1.012", "0.90–1.00"]),
        (generations_view(GENERATIONS), ["129–192", "2.500", "-0.400"]),
        (label_calibration_view(LABELS), ["contextual", "0.123", "0.020"]),
        (alternatives_table(EVENTS, word), ["' something'", "60.65%", "' word0'", "36.79%"]),
    ],
)
def test_every_table_fits(
    monkeypatch: pytest.MonkeyPatch, view: RenderableType, kept: list[str], width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out, _ = redirect(monkeypatch, terminal=True)
    Console(color="never").render(view)
    shown = out.value()
    assert max(map(cell_len, shown.splitlines())) <= width
    assert "…" not in shown
    for each in kept:
        assert each in shown
    if width == 200:
        assert "A wider terminal" not in shown


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (40, "     5,123.5  Line 7: a long line of te…"),
        (45, "     5,123.5      0.624  Line 7: a long line…"),
        (60, "     5,123.5      0.624   10,240  Line 7: a long line of te…"),
        (None, "     5,123.5      0.624   10,240  Line 7: a long line of text"),
    ],
)
def test_a_row_of_score_cuts_nothing_but_its_text(width: int | None, shown: str) -> None:
    assert row_line(SCORE, "Line 7: a long line of text", width=width) == shown + "\n"
    if width is not None:
        assert cell_len(shown) <= width
    header = row_header(width=width)
    assert header.index("text") == shown.index("Line 7")
    name = "a/very/long/name/of/a/file/that/was/scored.txt"
    assert row_line(SCORE, name, width=width, whole=True).endswith(f"{name}\n")


def test_a_sparkline_of_any_length() -> None:
    course = Course(most=8)
    window: Any = None
    assert course.sparkline(80) == ""
    for bits in range(1000):
        course.add(window, TokenScores([-bits * math.log(2)]))
    means = course.means(8)
    assert len(means) <= 8
    assert means == sorted(means)
    line = course.sparkline(36)
    assert line.startswith("surprisal  ▁")
    assert line.endswith(" bits")
    assert "█  " in line
    assert cell_len(line) <= 40

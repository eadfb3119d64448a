"""Figures and intervals against formulas written out and the standard library."""

from __future__ import annotations

import math
import random
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.scoring import statistics
from llmcli.scoring.statistics import Blocks, Score, Tally, WordCount, bootstrap_interval

spaced = st.text(alphabet="ab \n\t\u00a0\u2003\x1cé界", max_size=40)


@given(text=spaced, cuts=st.lists(st.integers(0, 40), max_size=5))
def test_words_do_not_depend_on_the_pieces(text: str, cuts: list[int]) -> None:
    edges = sorted({0, len(text), *(min(c, len(text)) for c in cuts)})
    count = WordCount()
    for begin, end in pairwise(edges):
        count.add(text[begin:end])
    assert count.words == len(text.split())
    assert count.gaps + 1 == len(re.split(r"\s+", text))
    assert count.bytes == len(text.encode())


def test_the_definitions() -> None:
    score = Score(tokens=4, words=3, bytes=20, nll=10.0)
    assert score.nll_per_token == 2.5
    assert score.perplexity == pytest.approx(math.exp(10 / 4))
    assert score.word_perplexity == pytest.approx(math.exp(10 / 3))
    assert score.byte_perplexity == pytest.approx(math.exp(10 / 20))
    assert score.bits_per_byte == pytest.approx(10 / 20 / math.log(2))


def test_no_figure_per_byte_where_tokens_were_left_out() -> None:
    score = Score(tokens=4, words=3, bytes=20, nll=10.0, complete=False)
    assert score.word_perplexity is None
    assert score.byte_perplexity is None
    assert score.bits_per_byte is None
    assert score.perplexity == pytest.approx(math.exp(2.5))


def test_overflow_is_a_number() -> None:
    assert math.isfinite(Score(tokens=1, words=1, bytes=1, nll=5000.0).perplexity)


@given(
    values=st.lists(st.floats(-20, 0), min_size=1, max_size=700),
    weight=st.sampled_from([1.0, 0.75]),
)
def test_tally_is_the_sum(values: list[float], weight: float) -> None:
    tally = Tally()
    tally.add(values, weight)
    assert tally.nll == pytest.approx(-weight * math.fsum(values), abs=1e-9)
    assert tally.weight == pytest.approx(weight * len(values))
    assert len(tally.blocks) == math.ceil(len(values) / 128)
    sums = list(tally.blocks.rows())
    assert math.fsum(row[0] for row in sums) == pytest.approx(tally.nll, abs=1e-9)
    assert math.fsum(row[1] for row in sums) == pytest.approx(tally.weight)


def test_blocks_merge_instead_of_growing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MAX_BLOCKS", 8)
    blocks = Blocks(size=2)
    for value in range(1000):
        blocks.add(float(value), 1.0)
        assert len(blocks) <= 8
    assert blocks.size == 128
    assert [row[1] for row in blocks.rows()] == [128] * 7 + [104]
    assert sum(row[0] for row in blocks.rows()) == sum(range(1000))


@given(
    cuts=st.lists(st.integers(0, 400), min_size=1, max_size=12),
    weight=st.sampled_from([1.0, 0.75]),
)
def test_blocks_do_not_depend_on_the_windows(cuts: list[int], weight: float) -> None:
    """Windows of any length make the blocks of 128 that tokens one by one make."""
    tally, one_by_one = Tally(), Blocks()
    for index, size in enumerate(cuts):
        values = [-(index + place % 7) / 3 for place in range(size)]
        tally.add(values, weight)
        for value in values:
            one_by_one.add(-weight * value, weight)
    assert len(tally.blocks) == len(one_by_one)
    for found, wanted in zip(tally.blocks.rows(), one_by_one.rows(), strict=True):
        assert found == pytest.approx(wanted, abs=1e-9)


def test_interval_needs_ten_blocks() -> None:
    rows = [(float(i % 3), 1.0) for i in range(9)]
    assert bootstrap_interval(rows) is None
    assert bootstrap_interval([*rows, (1.0, 1.0)]) is not None


def test_interval_of_equal_blocks_is_a_point() -> None:
    low, high = bootstrap_interval([(3.0, 2.0)] * 50) or (0.0, 0.0)
    assert low == high == 1.5


def test_interval_is_that_of_the_normal_approximation() -> None:
    source = random.Random(1)
    rows = [(source.gauss(300, 40), 128.0) for _ in range(2000)]
    low, high = bootstrap_interval(rows) or (0.0, 0.0)
    mean = sum(row[0] for row in rows) / (128 * len(rows))
    spread = (sum((row[0] / 128 - mean) ** 2 for row in rows) / len(rows)) ** 0.5
    error = 1.96 * spread / len(rows) ** 0.5
    assert low == pytest.approx(mean - error, abs=0.2 * error)
    assert high == pytest.approx(mean + error, abs=0.2 * error)


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    """Of intervals over dependent tokens (an AR(1) series), about 95 in 100 hold the mean."""
    source = random.Random(7)
    covered = 0
    for _ in range(100):
        blocks, level = Blocks(), 0.0
        for _ in range(128 * 40):
            level = 0.8 * level + source.gauss(0, 1)
            blocks.add(3.0 + level, 1.0)
        low, high = bootstrap_interval(blocks.rows(), resamples=200) or (0.0, 0.0)
        covered += low <= 3.0 <= high
    assert 86 <= covered <= 100


def test_word_counts_of_several_texts() -> None:
    first, second = WordCount(), WordCount()
    first.add("a b ")
    second.add("c")
    ours, theirs = Tally(), Tally(count_gaps=True)
    for tally in (ours, theirs):
        tally.add([-1.0])
        tally.add_text(first)
        tally.add_text(second)
    assert ours.score().words == 3
    assert theirs.score().words == 4  # "a", "b", "" and "c"
    assert ours.score().bytes == 5

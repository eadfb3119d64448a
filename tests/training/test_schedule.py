from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.training.schedule import Progress, learning_rate_factor, sequence_length
from llmcli.training.settings import ScheduleName, TrainSettings


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_progress_is_the_further_of_steps_and_time() -> None:
    clock = Clock()
    progress = Progress(max_steps=10, max_time=60.0, clock=clock)
    assert progress.fraction == 0.0
    progress.step = 3
    assert progress.fraction == pytest.approx(0.3)
    clock.now += 30.0
    progress.tick()
    assert progress.fraction == pytest.approx(0.5)
    progress.step = 20
    assert progress.fraction == 1.0


def test_time_before_the_clock_is_restarted_does_not_count() -> None:
    clock = Clock()
    progress = Progress(max_steps=10, elapsed=5.0, clock=clock)
    clock.now += 1000.0
    progress.restart_clock()
    clock.now += 2.0
    assert progress.tick() == 7.0


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", {0.05: 0.5, 0.1: 1.0, 0.55: 0.5, 1.0: 0.0}),
        ("wsd", {0.05: 0.5, 0.1: 1.0, 0.6: 1.0, 0.8: 0.5, 1.0: 0.0}),
        ("constant", {0.05: 0.5, 0.1: 1.0, 1.0: 1.0}),
    ],
)
def test_learning_rate(schedule: ScheduleName, expected: dict[float, float]) -> None:
    settings = TrainSettings(schedule=schedule, warmup=0.1, decay=0.4)
    for fraction, factor in expected.items():
        assert learning_rate_factor(fraction, settings) == pytest.approx(factor, abs=1e-9)
    assert 0 < learning_rate_factor(0.0, settings) < 0.01


@given(
    fraction=st.floats(0, 1),
    context=st.integers(1, 4096),
    grow_from=st.none() | st.integers(1, 4096),
)
def test_sequence_lengths_divide_the_context(
    fraction: float, context: int, grow_from: int | None
) -> None:
    length = sequence_length(fraction, grow_from=grow_from, context=context)
    assert context % length == 0
    assert math.log2(context // length).is_integer()
    assert sequence_length(1.0, grow_from=grow_from, context=context) == context

"""How many threads: tried out, settled on, and tried again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from llmcli.engine import threads
from llmcli.engine.threads import Threads, available


class _Clock:
    """A machine on which a pass takes as long as its number of threads says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int = 4) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(threads, "available", lambda: [1, 2, most])

    def passes(
        self, chosen: Threads, count: int, seconds: Callable[[int], float], tokens: int = 1
    ) -> list[int]:
        used = []
        for _ in range(count):
            with chosen.timing(tokens) as number:
                self.now += seconds(number)
            used.append(number)
        return used


def test_the_fastest_number_is_settled_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, chosen = _Clock(monkeypatch), Threads()
    used = clock.passes(chosen, 40, lambda number: {1: 3.0, 2: 1.0, 4: 2.0}[number])
    assert sorted(used[:9]) == [1, 1, 1, 2, 2, 2, 4, 4, 4]
    assert used[0] == 4  # a prompt that comes alone gets all
    assert set(used[9:]) == {2}
    assert chosen.latest == 2


def test_threads_that_gain_next_to_nothing_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, chosen = _Clock(monkeypatch), Threads()
    used = clock.passes(chosen, 20, lambda number: {1: 1.0, 2: 0.97, 4: 1.3}[number])
    assert set(used[9:]) == {1}


def test_one_slow_step_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, chosen = _Clock(monkeypatch), Threads()
    clock.passes(chosen, 1, lambda number: 100.0)  # the first, which finds cold caches
    used = clock.passes(chosen, 20, lambda number: 4 / number)
    assert set(used[8:]) == {4}


def test_it_is_measured_anew_when_the_machine_has_become_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, chosen = _Clock(monkeypatch), Threads()
    clock.passes(chosen, 100, lambda number: 4 / number)
    assert chosen.latest == 4
    clock.passes(chosen, 300, lambda number: float(number))
    assert chosen.latest == 1


def test_what_is_far_slower_is_tried_once_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the steps of a long text hardly any is slow."""
    clock, chosen = _Clock(monkeypatch), Threads()
    clock.passes(chosen, 100, lambda number: 4 / number)
    used = clock.passes(chosen, 1000, lambda number: 4 / number)
    assert used.count(4) >= 995 * 0.99
    assert {used.count(1), used.count(2)} <= {4, 5}


def test_long_prompts_get_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, chosen = _Clock(monkeypatch), Threads()
    used = clock.passes(chosen, 300, lambda number: 4 / number, tokens=512)
    assert set(used) == {4}


def test_steps_and_prompts_are_measured_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, chosen = _Clock(monkeypatch), Threads()
    clock.passes(chosen, 20, lambda number: float(number))
    clock.passes(chosen, 20, lambda number: 512 / number, tokens=512)
    assert chosen.latest == 4
    clock.passes(chosen, 1, lambda number: float(number))
    assert chosen.latest == 1


def test_a_number_that_was_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, chosen = _Clock(monkeypatch), Threads(3)
    assert set(clock.passes(chosen, 20, lambda number: float(number))) == {3}
    assert chosen.latest == chosen.most == 3


def test_numbers_worth_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert available() == [1, 2, 4, 6]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert available() == [1]

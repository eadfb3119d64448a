"""Where the time went, and what is said of decoding that takes long."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llmcli.system import process_age
from llmcli.tasks.statistics import GenerationStats
from llmcli.terminal.clock import Clock


def test_steps_add_up_to_the_whole() -> None:
    times = iter([10.0, 11.0, 13.0, 13.001, 13.5])
    clock = Clock(now=lambda: next(times), age=lambda: 0.5)
    for step in ("loading", "writing", "loading"):
        clock.begin(step)
    assert clock.lines() == [
        "4.00 s in all",
        "  starting, with imports: 1.50 s",
        "  loading: 2.50 s",
    ]


def test_a_process_is_as_old_as_it_is() -> None:
    first = process_age()
    assert 0 < first <= process_age() < first + 60


def stats(**more: Any) -> GenerationStats:
    return GenerationStats(
        prompt_tokens=1, tokens=31, first=1.0, total=11.0, threads=lambda: 2, **more
    )


@pytest.mark.parametrize(
    ("load", "model", "said"),
    [
        (9.0, {}, "9 programs share 2 processors. It is faster when they have finished."),
        (0.0, {"timings": {"import transformers": 1.0}}, "transformers computes fable."),
        (0.0, {}, "each token reads all weights in float32. --precision int8"),
        (0.0, {"precision": "int8"}, "on 2 threads. A smaller model is faster."),
    ],
)
def test_slow_decoding_is_explained(
    monkeypatch: pytest.MonkeyPatch, load: float, model: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr("llmcli.tasks.statistics.load_average", lambda: load)
    monkeypatch.setattr("llmcli.tasks.statistics.usable_processors", lambda: 2)
    about = {"name": "fable", "device": "cpu", "precision": "float32", "timings": {}} | model
    found = stats().slowness(SimpleNamespace(**about))
    assert found is not None
    assert found.startswith("Decoding is slow, at 3.0 tokens/s")
    assert said in found


def test_fast_short_and_remote_decoding_is_not() -> None:
    model: Any = SimpleNamespace(name="x", device="cpu", precision="float32", timings={})
    assert GenerationStats(1, 31, 1.0, 2.0, threads=lambda: 2).slowness(model) is None
    assert GenerationStats(1, 3, 1.0, 4.0, threads=lambda: 2).slowness(model) is None
    assert GenerationStats(1, 31, 1.0, 11.0).slowness(model) is None

"""What is said where there is not enough memory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from training_runs import tiny_run

from llmcli.errors import OutOfMemory
from llmcli.training.train import train


def test_out_of_memory(tales: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr("llmcli.training.loop.TrainingLoop.loss", fail)
    with pytest.raises(OutOfMemory, match="does not fit"):
        train(tiny_run(tales, tmp_path / "m"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing says what is available")
def test_more_than_the_machine_has(
    tales: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel would kill the process, or another one, without a word."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    monkeypatch.setattr("llmcli.system.available_memory", lambda: 300 << 20)
    train(tiny_run(tales, tmp_path / "small", max_steps=1))
    with pytest.raises(OutOfMemory, match="does not fit"):
        train(tiny_run(tales, tmp_path / "m", batch_size=200_000, max_steps=1))
    assert resource.getrlimit(resource.RLIMIT_DATA) == before

"""How much memory there is to take, and what is said where it is not enough."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from training_runs import tiny_run

from llmcli.errors import OutOfMemory
from llmcli.training import memory
from llmcli.training.train import train


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_container_has_less_than_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    whole = memory.available_memory()
    assert whole is not None
    assert whole > 1 << 20
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("70000\n")
    assert memory.available_memory() != 30_000
    (tmp_path / "memory.max").write_text("100000\n")
    (tmp_path / "memory.stat").write_text("anon 45000\ninactive_file 20000\nactive_file 5000\n")
    assert memory.available_memory() == 55_000


def test_out_of_memory(tales: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr("llmcli.training.loop.LanguageTrainer.compute_loss", fail)
    with pytest.raises(OutOfMemory, match="does not fit"):
        train(tiny_run(tales, tmp_path / "m"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing says what is available")
def test_more_than_the_machine_has(
    tales: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel would kill the process, or another one, without a word."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    monkeypatch.setattr("llmcli.training.memory.available_memory", lambda: 300 << 20)
    train(tiny_run(tales, tmp_path / "small", max_steps=1))
    with pytest.raises(OutOfMemory, match="does not fit"):
        train(tiny_run(tales, tmp_path / "m", batch_size=200_000, max_steps=1))
    assert resource.getrlimit(resource.RLIMIT_DATA) == before

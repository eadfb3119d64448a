"""How much memory there is to take."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llmcli import system


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_container_has_less_than_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "_CGROUP", tmp_path)
    whole = system.available_memory()
    assert whole is not None
    assert whole > 1 << 20
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("70000\n")
    assert system.available_memory() != 30_000
    (tmp_path / "memory.max").write_text("100000\n")
    (tmp_path / "memory.stat").write_text("anon 45000\ninactive_file 20000\nactive_file 5000\n")
    assert system.available_memory() == 55_000

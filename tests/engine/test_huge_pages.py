"""Huge pages: large blocks come from them where the system can, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llmcli.engine.huge_pages import reserve_huge_pages

_PROGRAM = """
import torch
from llmcli.engine.huge_pages import reserve_huge_pages
assert reserve_huge_pages(64 << 20)
block = torch.ones(40 << 18)
assert float(block.sum()) == 40 << 18
with open("/proc/self/smaps_rollup") as file:
    print(next(line.split()[1] for line in file if line.startswith("AnonHugePages")))
"""


def _kernel_gives_huge_pages() -> bool:
    try:
        with open("/sys/kernel/mm/transparent_hugepage/enabled") as file:
            return "[never]" not in file.read()
    except OSError:
        return False


@pytest.mark.skipif(not _kernel_gives_huge_pages(), reason="no huge pages here")
def test_large_blocks_lie_in_huge_pages() -> None:
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
    )
    assert int(result.stdout) >= 30 << 10


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not reserve_huge_pages(1 << 20)

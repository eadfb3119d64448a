"""Every level gives the same bits, on this processor and, under an emulator, on another."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_check import compiled, numbers
from native_models import LEVELS

from llmcli.engine.native.library import PATH

NATIVE = PATH.parent


@pytest.mark.skipif(not LEVELS, reason="the library was not built")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")
def test_levels_agree_to_the_bit_here_and_on_arm(tmp_path: Path) -> None:
    here = numbers([str(compiled(tmp_path, ["gcc"], PATH, f"-Wl,-rpath,{NATIVE}"))])
    assert set(here) == set(LEVELS)
    assert len(set(here.values())) == 1
    compiler, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("NEON needs gcc-aarch64-linux-gnu and qemu-user to be tried")
    program = compiled(tmp_path, [compiler], "-static", *sorted(NATIVE.glob("*.c")))
    there = numbers([emulator, str(program)])
    assert set(there) == {"c", "neon"}
    assert set(there.values()) == set(here.values())


def said(level: str) -> subprocess.CompletedProcess[str]:
    code = "from llmcli.engine.native import library as n; n.library(); print(n.level())"
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "LLMCLI_NATIVE": level},
    )


@pytest.mark.skipif(not LEVELS, reason="the library was not built")
def test_the_environment_chooses_a_level() -> None:
    assert LEVELS[-1] == "c"
    assert said("").stdout.strip() == LEVELS[0]
    assert said(LEVELS[-1].upper()).stdout.strip() == "c"
    assert said("0").stdout.strip() == "None"


@pytest.mark.skipif(not LEVELS, reason="the library was not built")
def test_a_level_that_is_not_there_is_refused() -> None:
    unknown = said("sse9")
    assert "InvalidInput: LLMCLI_NATIVE=sse9 names no kernels. Use one of amx," in unknown.stderr
    lacking = said("neon" if "neon" not in LEVELS else "avx2")
    assert "This processor cannot run LLMCLI_NATIVE=" in lacking.stderr

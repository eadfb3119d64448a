"""Compiles and runs kernel_check.c, which says what every level of a library computes."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from llmcli.engine.native.library import PATH

FLAGS = ["-std=gnu11", "-O1", "-ffp-contract=off", "-Wno-psabi", f"-I{PATH.parent}"]


def compiled(folder: Path, compiler: Sequence[str], *sources: Path | str) -> Path:
    """The program, for a library or its sources."""
    program = folder / "check.exe"
    check = Path(__file__).with_suffix(".c")
    command = [*compiler, *FLAGS, str(check), *map(str, sources)]
    subprocess.run([*command, "-o", str(program), "-lm", "-lpthread"], check=True)
    return program


def numbers(command: Sequence[str]) -> dict[str, str]:
    """A number of the bits that each level gives, by its name."""
    said = subprocess.run([*command, "12"], check=True, capture_output=True, text=True).stdout
    return dict(line.split() for line in said.splitlines())

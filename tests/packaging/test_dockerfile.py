"""The Dockerfile: linted, and what it copies is there and not left out."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HADOLINT = shutil.which("hadolint", path=Path(sys.executable).parent)


def instructions() -> list[list[str]]:
    """The words of each instruction; its name is the first of them."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line]


@pytest.mark.skipif(HADOLINT is None, reason="hadolint has no package for this platform")
def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run(
        [str(HADOLINT), "--failure-threshold", "style", str(ROOT / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_copied_is_there_and_let_through() -> None:
    copied = {
        name
        for word, *arguments in instructions()
        if word == "COPY" and not arguments[0].startswith("--")
        for name in arguments[:-1]
    }
    assert copied
    assert all((ROOT / name).exists() for name in copied)
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied


def test_what_the_build_needs_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {"pyproject.toml", "setup.py", "llmcli", project["readme"], *project["license-files"]}
    copied = {name for word, *names in instructions() if word == "COPY" for name in names}
    assert needed <= copied
    extras = next(words[1] for words in instructions() if words[1].startswith("EXTRAS="))
    assert set(extras.removeprefix("EXTRAS=").split(",")) <= set(project["optional-dependencies"])


def test_it_does_not_run_as_root() -> None:
    last = [words for words in instructions() if words[0] in ("FROM", "USER", "ENTRYPOINT")][-2:]
    assert last == [["USER", "1000:1000"], ["ENTRYPOINT", '["llmcli"]']]

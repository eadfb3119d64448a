"""The command that installs what is missing."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from llmcli import extras


def test_the_command_runs_where_one_is() -> None:
    words = shlex.split(extras.install_command("train"))
    assert words[:4] == [sys.executable, "-m", "pip", "install"]
    assert any(word.startswith("accelerate") for word in words[4:])
    assert not any("llmcli" in word for word in words[4:])


def test_other_installers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert extras.install_command("lora").startswith("uv pip install --python ")
    (tmp_path / "pipx_metadata.json").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert extras.install_command("lora").startswith("pipx inject llmcli ")

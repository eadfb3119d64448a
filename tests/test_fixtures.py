"""The fixtures themselves: the network is shut, and the tiny models are real ones."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def test_the_internet_is_shut_here() -> None:
    with pytest.raises(SystemExit, match="tried to reach"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)


def test_the_internet_is_shut_in_subprocesses() -> None:
    code = "import socket; socket.getaddrinfo('example.invalid', 80)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert b"tried to reach 'example.invalid'" in done.stderr


def test_the_environment_is_clean() -> None:
    names = {name for name in os.environ if name.startswith(("HF_", "LLMCLI_"))}
    level = {"LLMCLI_NATIVE"} & names  # a level of kernels may be forced for the whole run
    assert names - level == {"HF_HOME", "HF_HUB_DISABLE_TELEMETRY"}


@pytest.mark.parametrize("fixture", ["tiny_gpt2", "tiny_llama", "tiny_neox"])
def test_tiny_models_are_complete(fixture: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(fixture)
    files = {path.name for path in folder.iterdir()}
    expected = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert files == expected

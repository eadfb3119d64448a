"""What is not installed with llmcli itself, and the command that installs it here."""

from __future__ import annotations

import re
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

from llmcli.errors import LlmcliError


def missing_package(what: str, extra: str) -> LlmcliError:
    """The error for a package that is not installed.

    Args:
        what: What wants it, as the message begins ("Training").
        extra: Which of the project's extras has it.
    """
    return LlmcliError(
        f"{what} needs packages that are not installed.", f"Run: {install_command(extra)}"
    )


def install_command(extra: str) -> str:
    """The command that adds an extra's packages to the environment that is running.

    The packages are named themselves, for llmcli may come from a folder that pip cannot find
    under its name.
    """
    packages = shlex.join(_packages(extra))
    python = shlex.quote(sys.executable)
    if (Path(sys.prefix) / "pipx_metadata.json").is_file():
        return f"pipx inject llmcli {packages}"
    if find_spec("pip") is None:
        return f"uv pip install --python {python} {packages}"
    return f"{python} -m pip install {packages}"


def _packages(extra: str) -> list[str]:
    from importlib import metadata  # slow, and seldom wanted

    try:
        wanted = metadata.requires("llmcli") or []
    except metadata.PackageNotFoundError:  # run from its sources
        wanted = []
    marker = re.compile(rf"extra == ['\"]{re.escape(extra)}['\"]")
    found = [each.split(";")[0].strip() for each in wanted if marker.search(each)]
    return found or [f"llmcli[{extra}]"]

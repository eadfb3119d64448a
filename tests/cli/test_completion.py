"""Shell completion: the scripts, and what bash is really offered."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from llmcli.cli.main import cli
from llmcli.hub.reference import bundled_models

SCRIPT = Path(sys.executable).with_name("llmcli")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(shell: str) -> None:
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert f"_LLMCLI_COMPLETE={shell}_complete" in result.stdout
    assert result.stderr == ""


def test_no_script_for_other_shells() -> None:
    result = CliRunner().invoke(cli, ["completion", "tcsh"])
    assert result.exit_code == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'." in result.stderr


def complete(line: str, **variables: str) -> list[tuple[str, str]]:
    """Ask as the bash script does; the last word is the one to complete."""
    words = line.split(" ")
    environment = {
        **os.environ,
        "_LLMCLI_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        **variables,
    }
    result = subprocess.run(
        [SCRIPT], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.stderr == ""
    return [(kind, value) for kind, _, value in (x.partition(",") for x in result.stdout.split())]


def test_commands_and_options() -> None:
    assert ("plain", "generate") in complete("llmcli gen")
    offered = complete("llmcli generate --top")
    assert offered == [("plain", "--top-k"), ("plain", "--top-p"), ("plain", "--top-h")]
    choices = [value for _, value in complete("llmcli generate --overflow ")]
    assert choices == ["error", "left", "middle", "slide"]


def test_files_complete_as_files() -> None:
    assert complete("llmcli generate -o ")[0][0] == "file"
    assert complete("llmcli generate --input x")[0][0] == "file"


def test_model_names_complete(tmp_path: Path) -> None:
    """Bundled and cached ones, and folders."""
    repository = tmp_path / "hub" / "models--someone--tiny-model"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    offered = complete("llmcli generate -m ", HF_HOME=str(tmp_path))
    values = [value for kind, value in offered if kind == "plain"]
    names = [*bundled_models(), "someone/tiny-model"]
    assert values[: len(names)] == names
    assert all(value.endswith("/") for value in values[len(names) :])
    # A shell that is told to complete folders forgets the names.
    assert {kind for kind, _ in offered} == {"plain"}
    inside = complete(f"llmcli generate -m {tmp_path}/", HF_HOME=str(tmp_path))
    assert inside == [("plain", f"{tmp_path}/hub/")]
    assert ("plain", "someone/tiny-model") in complete("llmcli next -m some", HF_HOME=str(tmp_path))


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_itself(tmp_path: Path) -> None:
    """Load the script in bash, call the function that it registers, read COMPREPLY."""
    program = f"""
        eval "$({SCRIPT} completion bash)"
        COMP_WORDS=(llmcli generate --tempe) COMP_CWORD=2
        complete -p llmcli | grep -o '_llmcli[a-z_]*' | head -1 > name
        "$(cat name)" llmcli --tempe generate
        echo "reply: ${{COMPREPLY[*]}}"
        mkdir fables
        COMPREPLY=() COMP_WORDS=(llmcli generate -m fab) COMP_CWORD=3
        "$(cat name)" llmcli fab -m
        echo "models: ${{COMPREPLY[*]}}"
    """
    result = subprocess.run(
        ["bash", "--norc", "-c", program],
        env={**os.environ, "PATH": f"{SCRIPT.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=60,
    )
    first, models = result.stdout.splitlines()
    assert first == "reply: --temperature", result.stderr
    assert models.split()[1:] == [*bundled_models(), "fables/"]

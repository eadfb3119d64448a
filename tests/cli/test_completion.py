"""Shell completion: the scripts, and what bash is really offered."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from llmcli.cli.main import SUMMARIES, cli
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


def options_of(command: click.Command) -> Iterator[click.Parameter]:
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from options_of(inner)
    yield from command.params


def test_what_takes_a_file_or_a_model_completes_it() -> None:
    """By what its help calls it; descriptions are one line, as zsh reads them."""
    context = click.Context(cli)
    for param in options_of(cli):
        kinds = {each.type for each in param.shell_complete(context, "")}
        called = param.make_metavar(context)
        if "FILE" in called:
            assert "file" in kinds, param.name
        if "DIR" in called:
            assert kinds == {"dir"}, param.name
        if "MODEL" in called:
            assert "plain" in kinds, param.name
        assert "\n" not in (getattr(param, "help", "") or "")


def test_commands_are_told_apart_without_importing_them() -> None:
    """What is said of them is what their help begins with."""
    assert list(SUMMARIES) == list(cli.commands)
    for name, command in cli.commands.items():
        assert SUMMARIES[name] == command.get_short_help_str(limit=10_000)
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "llmcli", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Continue a prompt." in result.stdout
    assert "llmcli.cli.boundary" in result.stderr
    assert "llmcli.cli.generate" not in result.stderr


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hub's cache with a model in it, and an alias for another."""
    repository = tmp_path / "hub" / "models--someone--tiny-model"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (tmp_path / "config.toml").write_text('[aliases]\nshort = "someone/tiny-model"\n')
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("LLMCLI_CONFIG", str(tmp_path / "config.toml"))


def test_model_names_complete(cache: None, tmp_path: Path) -> None:
    """Aliases, bundled and cached ones; the shell adds folders."""
    names = ["short", *bundled_models(), "someone/tiny-model"]
    offered = [*(("plain", name) for name in names), ("dir", "")]
    assert complete("llmcli generate -m ") == offered
    (tmp_path / "config.toml").write_text("nonsense")
    assert complete("llmcli next -m some") == [("plain", "someone/tiny-model"), ("dir", "some")]


class Shell:
    """An interactive shell on a terminal of its own, in a folder with things to complete.

    Ctrl-X P writes the line that is being edited to a file, and empties it.
    """

    def __init__(self, name: str, folder: Path) -> None:
        (folder / "my files.txt").touch()
        (folder / "my folder").mkdir()
        self._seen = folder / "lines"
        self._seen.touch()
        load = f'source <("{SCRIPT}" completion {name})'
        if name == "bash":
            start = ["bash", "--norc", "--noprofile", "-i"]
            setup = f"""
                bind -x '"\\C-xp": printf "%s\\n" "$READLINE_LINE" >> lines; READLINE_LINE='
                {load}"""
        else:
            start = ["zsh", "-f", "-i"]
            setup = f"""
                seen() {{ print -r -- "$BUFFER" >> lines; BUFFER=; }}
                zle -N seen; bindkey '^Xp' seen
                autoload -U compinit; compinit -D -u
                {load}"""
        environment = {**os.environ, "PATH": f"{SCRIPT.parent}:{os.environ['PATH']}"}
        own, its = pty.openpty()
        self._own = own
        self._process = subprocess.Popen(
            start,
            stdin=its,
            stdout=its,
            stderr=its,
            cwd=folder,
            env={**environment, "TERM": "xterm", "COLUMNS": "200"},
            start_new_session=True,
        )
        os.close(its)
        for line in setup.splitlines():
            self._send(f"{line.strip()}\n")
        self._send("echo ready >> lines\n")
        assert self._line(0) == "ready"

    def complete(self, line: str) -> str:
        """Type a line and a Tab; what stands there then."""
        lines = self._count()
        self._send(f"{line}\t\x18p")
        return self._line(lines)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._own)

    def _send(self, text: str) -> None:
        os.write(self._own, text.encode())

    def _count(self) -> int:
        return self._seen.read_text().count("\n")

    def _line(self, number: int) -> str:
        """A line of the file; meanwhile what the shell draws is read, or it would wait."""
        drawn = b""
        deadline = time.monotonic() + 60
        while self._count() <= number:
            assert time.monotonic() < deadline, drawn
            if select.select([self._own], [], [], 0.02)[0]:
                drawn += os.read(self._own, 65536)
        return self._seen.read_text().splitlines()[number]


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_in_the_shell_itself(name: str, cache: None, tmp_path: Path) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"there is no {name}")
    folder = tmp_path / "here"
    folder.mkdir()
    shell = Shell(name, folder)
    try:
        lines = {
            "llmcli gen": "llmcli generate ",
            "llmcli generate --temper": "llmcli generate --temperature ",
            "llmcli next -m fa": "llmcli next -m fable ",
            "llmcli next --model=someone/t": "llmcli next --model=someone/tiny-model ",
            "llmcli next -m my": "llmcli next -m my\\ folder/",
            "llmcli next -i my\\ fi": "llmcli next -i my\\ files.txt ",
        }
        assert {line: shell.complete(line) for line in lines} == lines
    finally:
        shell.close()


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_in_fish_itself(cache: None, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    (folder / "faraway").mkdir(parents=True)
    (folder / "fat.txt").touch()
    asked = ["llmcli cal", "llmcli next -m fa", "llmcli next --model=fab", "llmcli next -i fat"]
    program = f"'{SCRIPT}' completion fish | source\n" + "\n".join(
        f"complete -C '{line}'; echo ." for line in asked
    )
    result = subprocess.run(
        ["fish", "--no-config", "-c", program],
        env={**os.environ, "PATH": f"{SCRIPT.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=60,
    )
    calibrate, model, joined, file, _ = result.stdout.split(".\n")
    assert calibrate == f"calibrate\t{SUMMARIES['calibrate']}\n", result.stderr
    assert model.splitlines() == ["fable", "faraway/"]
    assert joined.splitlines() == ["--model=fable"]
    assert file.splitlines() == ["fat.txt"]

"""llmcli chat: one answer in a pipe, a conversation at a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from llmcli.cli.main import cli
from llmcli.terminal.chat import COMMANDS, help_text

DEADLINE = 90.0
READY = "\x1b[?2004h"  # the editor asks for pasted text in brackets


def chat(model: Path, *args: str, input: str | None = None, code: int = 0) -> Result:
    options = ["-m", str(model), "--template", "plain", "--seed", "1", "-n", "6", *args]
    result = CliRunner().invoke(cli, ["chat", *options], input=input)
    assert result.exit_code == code, result.output
    return result


def test_one_question(tiny_gpt2: Path, tmp_path: Path) -> None:
    saved = tmp_path / "talk.jsonl"
    result = chat(tiny_gpt2, "--save", str(saved), "--system", "Be brief.", "the fox")
    messages = [json.loads(line) for line in saved.read_text().splitlines()]
    assert [each["role"] for each in messages] == ["system", "user", "assistant"]
    assert messages[1]["content"] == "the fox"
    assert result.stdout == messages[2]["content"] + "\n"
    assert result.stderr == ""
    # The same question through a pipe is the same answer.
    piped = chat(tiny_gpt2, "--system", "Be brief.", input="the fox\n")
    assert piped.stdout == result.stdout


def test_json_says_what_made_it(tiny_gpt2: Path) -> None:
    record = json.loads(chat(tiny_gpt2, "--json", input="the fox").stdout)
    assert record["role"] == "assistant"
    assert record["finish_reason"] in ("length", "stop", "eos")
    assert record["completion_tokens"] == 6
    assert (record["template"], record["seed"], record["dropped_messages"]) == ("plain", 1, 0)
    assert record["sampling"]["max_new_tokens"] == 6


def test_going_on(tiny_gpt2: Path, tmp_path: Path) -> None:
    saved = tmp_path / "talk.jsonl"
    chat(tiny_gpt2, "--save", str(saved), "the fox")
    folder = Path(os.environ["HOME"]) / ".config" / "llmcli" / "chat"
    assert stat.S_IMODE((folder / "last.jsonl").stat().st_mode) == 0o600
    for given in (["--load", str(saved)], ["--continue"]):
        chat(tiny_gpt2, *given, "--save", str(tmp_path / "more.jsonl"), "the crow")
        messages = [json.loads(line) for line in (tmp_path / "more.jsonl").read_text().splitlines()]
        contents = [each["content"] for each in messages if each["role"] == "user"]
        assert contents == ["the fox", "the crow"]
        saved.write_text("".join(json.dumps(each) + "\n" for each in messages[:2]))
        (folder / "last.jsonl").write_text(saved.read_text())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["", ""], "The message is empty"),
        (["--template", "nowhere", "hi"], "There is no template 'nowhere'"),
        (["--load", "missing.jsonl", "hi"], "Cannot read missing.jsonl"),
        (["--load", "a", "--continue", "hi"], "exclude each other"),
        (["--temperature", "-1", "hi"], "--temperature"),
        (["--system", "a " * 200, "hi"], "messages that must stay"),
    ],
)
def test_what_is_wrong_with_the_call(tiny_gpt2: Path, args: list[str], words: str) -> None:
    assert words in chat(tiny_gpt2, *args, code=2).stderr


def test_a_model_without_a_template_says_what_to_do(tiny_gpt2: Path) -> None:
    result = CliRunner().invoke(cli, ["chat", "-m", str(tiny_gpt2), "hi"])
    assert result.exit_code == 2
    assert "no chat template" in result.stderr
    assert "--template FILE" in result.stderr


class Terminal:
    """The command in a terminal of its own."""

    def __init__(self, *args: str, cwd: Path) -> None:
        self.master, slave = pty.openpty()
        self.shown = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmcli", "chat", *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env={**os.environ, "TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.close(slave)

    def read_until(self, words: str) -> str:
        """Read until words are shown; returns what was shown before and with them."""
        end = time.monotonic() + DEADLINE
        while (at := self.shown.find(words.encode())) < 0:
            left = end - time.monotonic()
            assert left > 0, f"{words!r} never came: {self.shown!r}"
            if select.select([self.master], [], [], left)[0]:
                self.shown += os.read(self.master, 4096)
                # The editor asks where its cursor is.
                if b"\x1b[6n" in self.shown:
                    self.shown = self.shown.replace(b"\x1b[6n", b"")
                    os.write(self.master, b"\x1b[1;1R")
        seen, self.shown = self.shown[: at + len(words)], self.shown[at + len(words) :]
        return seen.decode("utf-8", "replace")

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def enter(self, text: str) -> None:
        """Type a line in the place of what stands there, once the editor is ready."""
        self.read_until(READY)
        self.type(f"\x15{text}\r")


@pytest.fixture
def terminal(tiny_gpt2: Path, tmp_path: Path) -> Iterator[Terminal]:
    options = ["--template", "plain", "--seed", "1", "-n", "6", "--threads", "1"]
    made = Terminal("-m", str(tiny_gpt2), *options, cwd=tmp_path)
    yield made
    if made.process.poll() is None:
        made.process.send_signal(signal.SIGKILL)
    made.process.wait()
    os.close(made.master)


def test_a_conversation(terminal: Terminal, tmp_path: Path) -> None:
    terminal.enter("the fox")
    terminal.enter("/tokens")
    terminal.read_until(" of 64 tokens.")
    terminal.enter("/sav")
    terminal.read_until("Did you mean /save?")
    terminal.enter("/set temperature 0")
    terminal.read_until("temperature is 0.")
    terminal.enter("/set temperature hot")
    terminal.read_until("Give a number.")
    terminal.enter("/undo")
    terminal.read_until("Taken back: the fox")
    # Several lines in one message, held together by quotes.
    terminal.enter('"""one\rtwo"""')
    terminal.enter("/save talk.jsonl")
    terminal.read_until("2 messages are in talk.jsonl.")
    terminal.read_until(READY)
    terminal.type("no\x03")  # Ctrl-C empties the line
    terminal.read_until(READY)
    terminal.type("\x04")
    terminal.process.wait(DEADLINE)
    assert terminal.process.returncode == 0
    messages = [json.loads(line) for line in (tmp_path / "talk.jsonl").read_text().splitlines()]
    assert [each["role"] for each in messages] == ["user", "assistant"]
    assert messages[0]["content"] == "one\ntwo"
    history = Path(os.environ["HOME"]) / ".config" / "llmcli" / "chat" / "history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert "the fox" in history.read_text()


def test_what_does_not_fit_is_not_lost(terminal: Terminal) -> None:
    """It stands in the line again, to be shortened."""
    terminal.enter("fox " * 70 + "end")
    terminal.read_until("must stay")
    terminal.read_until(READY)
    terminal.read_until("fox end")
    terminal.type("\x03")
    terminal.enter("/exit")
    terminal.process.wait(DEADLINE)
    assert terminal.process.returncode == 0


def test_help_names_every_command() -> None:
    for name in COMMANDS:
        assert name in help_text()

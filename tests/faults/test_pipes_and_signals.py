"""Closed pipes, full devices, signals, terminals: the installed command in its own process.

Rows 1 to 7, 16 and 49. (Row 56 asks what happens when a worker thread dies: no thread stands
between the model and its reader.) A generation that slides past its context never ends by
itself, so whatever ends it here is what the test did.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmcli.api import load

SCRIPT = str(Path(sys.executable).with_name("llmcli"))
ENDLESS = ["-n", "1000000", "--overflow", "slide", "--ignore-eos", "--seed", "1"]
DEADLINE = 120.0  # seconds; a busy machine takes half a minute to load a model
RESTORED = b"\x1b[0m\x1b[?25h"


@contextmanager
def started(*command: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command; it is gone afterwards, whatever happens."""
    options = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options}
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def finish(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Wait for the end; exit status and stderr."""
    _, err = process.communicate(timeout=DEADLINE)
    return process.returncode, (err or b"").decode()


def wait_until(condition: Callable[[], bool]) -> None:
    """Look until ``condition`` holds."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


# -- the reader goes away -----------------------------------------------------------------------


def test_row_01_the_reader_closes(tiny_gpt2: Path) -> None:
    """As ``| head -c 20`` does: 141, silent, soon; and the text came as it was made."""
    args = [SCRIPT, "generate", "-m", str(tiny_gpt2), *ENDLESS, "Once"]
    with started(*args, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert len(process.stdout.read(20)) == 20
        process.stdout.close()
        assert finish(process) == (141, "")


LIGHT = [["--help"], ["--version"], ["completion", "bash"]]


@pytest.mark.parametrize("args", LIGHT, ids=" ".join)
def test_row_01_nobody_reads_at_all(args: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with started(SCRIPT, *args, stdout=writer) as process:
        os.close(writer)
        assert finish(process) == (141, "")


# -- nowhere to write ---------------------------------------------------------------------------


@pytest.mark.parametrize("args", LIGHT, ids=" ".join)
def test_row_02_a_full_device(args: list[str]) -> None:
    with open("/dev/full", "wb") as full, started(SCRIPT, *args, stdout=full) as process:
        status, err = finish(process)
    assert status == 1
    assert err.startswith("Error: ")
    assert "No space left on device." in err
    assert err.count("\n") == 1


def test_row_02_a_full_device_while_streaming(tiny_gpt2: Path) -> None:
    args = [SCRIPT, "generate", "-m", str(tiny_gpt2), *ENDLESS, "Once"]
    with open("/dev/full", "wb") as full, started(*args, stdout=full) as process:
        status, err = finish(process)
    assert status == 1
    assert err.startswith("Error: Cannot write to stdout: No space left on device.")
    assert err.count("\n") == 1


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command, "bash", SCRIPT],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )


def test_row_03_stdout_closed_at_the_start() -> None:
    """Found before anybody looks for the model, which does not exist."""
    result = shell('"$1" generate -m ./no-such-model x >&-')
    assert result.returncode == 1
    assert result.stderr == "Error: stdout is closed. Leave it open, or redirect it to a file.\n"


def test_row_03_stderr_closed_too() -> None:
    result = shell('"$1" generate -m ./no-such-model x >&- 2>&-')
    assert (result.returncode, result.stderr) == (1, "")


def test_row_04_stdin_closed_and_needed() -> None:
    result = shell('"$1" generate -m ./no-such-model <&-')
    assert result.returncode == 2
    assert result.stderr.startswith("Error: stdin is closed.")
    assert result.stderr.count("\n") == 1


# -- stdin that is not ours ---------------------------------------------------------------------


def test_row_16_stdin_is_left_alone_in_any_locale(tiny_gpt2: Path) -> None:
    """An open pipe is not waited for, its lines stay for the loop around, a warning says so;
    and without a UTF-8 locale the text is the same."""
    reader, writer = os.pipe()
    os.write(writer, b"the next line\n")
    locale = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    args = [SCRIPT, "generate", "-m", str(tiny_gpt2), "-n", "1", "--greedy", "--echo", "é, 東京"]
    with started(
        *args, stdin=reader, stdout=subprocess.PIPE, env={**os.environ, **locale}
    ) as process:
        out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    expected = "".join(load(str(tiny_gpt2)).stream("é, 東京", max_new_tokens=1, temperature=0))
    assert out.decode("utf-8") == f"é, 東京{expected}\n"
    assert err == b"Warning: stdin holds data that was not asked for: write '-' to read it.\n"
    assert os.read(reader, 100) == b"the next line\n"
    os.close(reader)
    os.close(writer)


# -- Ctrl-C and its kin -------------------------------------------------------------------------


def test_row_05_ctrl_c_keeps_what_was_made(tiny_gpt2: Path) -> None:
    """The records are whole, and the last one says what happened."""
    args = [SCRIPT, "generate", "-m", str(tiny_gpt2), "--json", "--seed", "1"]
    args += ["-n", "20", "--num-return-sequences", "1000000", "--ignore-eos", "Once"]
    with started(*args, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, err) == (130, b"")
    records = [json.loads(line) for line in (first + rest).splitlines()]
    assert [record["index"] for record in records] == list(range(len(records)))
    reasons = [record["finish_reason"] for record in records]
    assert reasons == ["length"] * (len(records) - 1) + ["interrupted"]


@pytest.mark.parametrize("library", ["libtorch_cpu", "safetensors"])
def test_row_06_ctrl_c_while_loading(tiny_gpt2: Path, library: str) -> None:
    """As soon as the process has opened a library of torch's, of transformers'."""
    args = [SCRIPT, "generate", "-m", str(tiny_gpt2), *ENDLESS, "Once"]
    with started(*args, stdout=subprocess.PIPE) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        wait_until(lambda: library in maps.read_text())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, err) == (130, b"")
    assert b"Traceback" not in out


def test_row_07_sigterm_leaves_the_old_file_whole(tiny_gpt2: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    output.write_text("old\n")
    args = [SCRIPT, "generate", "-m", str(tiny_gpt2), *ENDLESS, "-o", str(output), "Once"]
    with started(*args, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: len(list(tmp_path.iterdir())) > 1)
        process.send_signal(signal.SIGTERM)
        assert finish(process) == (143, "")
    assert output.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [output]


def test_row_49_a_second_ctrl_c_while_nothing_moves(tiny_gpt2: Path) -> None:
    """The reader has stopped reading, so the first one cannot be heeded: the second one is."""
    args = [SCRIPT, "generate", "-m", str(tiny_gpt2), *ENDLESS, "Once"]
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with started(*args, stdout=writer) as process:
        os.close(writer)
        wait_until(lambda: _waiting_bytes(reader) > size - 16 and _waits_in_write(process.pid))
        pressed = 0
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            pressed += 1
            try:
                process.wait(0.5)
            except subprocess.TimeoutExpired:
                assert pressed < 20, "it does not end"
        assert finish(process) == (130, "")
    os.close(reader)
    assert pressed >= 2


def _waits_in_write(pid: int) -> bool:
    """Whether it sleeps in a pipe; where the kernel does not tell, whether it sleeps."""
    where = Path(f"/proc/{pid}/wchan").read_text()
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "pipe_write" in where or (where in ("", "0") and state == "S")


def _waiting_bytes(descriptor: int) -> int:
    buffer = fcntl.ioctl(descriptor, termios.FIONREAD, b"\0" * 4)
    return int(struct.unpack("i", buffer)[0])


# -- under a pseudo-terminal --------------------------------------------------------------------


class Terminal:
    """A command on a terminal of its own, as a person has it."""

    def __init__(self, *command: str) -> None:
        self.master, slave = os.openpty()
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.shown = b""
        # The new session takes the terminal as its own, so that Ctrl-C reaches it.
        take = (
            "import fcntl, os, sys, termios\n"
            "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
            "os.execv(sys.argv[1], sys.argv[1:])\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", take, *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    def read_until(self, words: bytes) -> None:
        """Read until ``words`` are shown."""
        while words not in self.shown:
            assert self._read(), f"it ended without {words!r}: {self.shown!r}"

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def finish(self) -> int:
        """Read to the end; exit status."""
        while self._read():
            pass
        return self.process.wait(DEADLINE)

    def _read(self) -> bytes:
        assert select.select([self.master], [], [], DEADLINE)[0], f"silent: {self.shown!r}"
        try:
            data = os.read(self.master, 65536)
        except OSError:  # the other side is closed
            return b""
        self.shown += data
        return data


def test_row_05_a_person_at_a_terminal(tiny_gpt2: Path) -> None:
    """The prompt is dim, escapes are shown, Ctrl-C ends the line and restores the terminal."""
    escape = load(str(tiny_gpt2)).tokenizer.ids("\x1b")
    args = ["generate", "-m", str(tiny_gpt2), *ENDLESS, "--logit-bias", f"{escape[0]}=1000"]
    with Terminal(SCRIPT, *args, "Say \x1b[2J this:") as terminal:
        terminal.read_until(b"\\x1b" * 50)
        terminal.press(b"\x03")
        assert terminal.finish() == 130
        shown = terminal.shown.replace(b"^C", b"")  # the terminal's own echo of the key
    shown = shown.rpartition(b"\r\x1b[K")[2]  # what was said of loading is gone
    assert shown.startswith(b"\x1b[2mSay \\x1b[2J this:\x1b[0m\\x1b\\x1b")
    assert shown.removesuffix(RESTORED).endswith(b"\\x1b\r\n")
    rest = re.sub(rb"\x1b\[[0-9;]*m|" + re.escape(RESTORED), b"", shown)
    assert b"\x1b" not in rest, "a raw escape reached the terminal"


def test_row_49_a_second_ctrl_c_restores_the_terminal() -> None:
    program = (
        "import time\n"
        "from llmcli.cli.boundary import InterruptFlag\n"
        "with InterruptFlag() as interrupted:\n"
        "    print('\\x1b[?25lready', flush=True)\n"
        "    while not interrupted():\n"
        "        time.sleep(0.01)\n"
        "    print('stopping', flush=True)\n"
        "    while True:\n"
        "        time.sleep(0.01)\n"
    )
    with Terminal(sys.executable, "-c", program) as terminal:
        terminal.read_until(b"ready")
        terminal.press(b"\x03")
        terminal.read_until(b"stopping")
        terminal.press(b"\x03")
        assert terminal.finish() == 130
        assert terminal.shown.count(b"stopping") == 1
        assert terminal.shown.endswith(RESTORED * 2)  # stdout's and stderr's


def test_an_error_on_a_terminal_is_one_coloured_line() -> None:
    with Terminal(SCRIPT, "generate", "--color", "auto", "--top-p", "2", "x") as terminal:
        assert terminal.finish() == 2
        lines = terminal.shown.replace(RESTORED, b"").splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(b"\x1b[1;31mError:\x1b[0m Invalid value for '--top-p'")


def test_no_prompt_on_a_terminal_is_an_error_not_a_wait() -> None:
    with Terminal(SCRIPT, "generate", "-m", "./no-such-model") as terminal:
        assert terminal.finish() == 2
        assert b"There is no prompt." in terminal.shown

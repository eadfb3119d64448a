"""Text from arguments, files and stdin: bytes, decoded once."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.errors import InvalidInput, InvalidText, StorageError
from llmcli.io import sources as inputs
from llmcli.io.prompts import read_prompt
from llmcli.terminal.console import Console


class Stdin:
    """A stdin with these bytes behind it."""

    def __init__(self, data: bytes, *, terminal: bool = False, chunk: int = 1 << 20) -> None:
        self.buffer: Any = io.BufferedReader(Chunks(data, chunk))
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def fileno(self) -> int:
        raise io.UnsupportedOperation


class Chunks(io.RawIOBase):
    """Gives a few bytes at a time, as a pipe does."""

    def __init__(self, data: bytes, size: int) -> None:
        self.data, self.size = data, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(self.size, len(buffer), len(self.data))
        buffer[:count] = self.data[:count]
        self.data = self.data[count:]
        return count


def read(parts: list[str], files: list[str] | None = None, **options: Any) -> str:
    return read_prompt(parts, files or [], notify=Console().notice, **options)


BYTES = st.binary(max_size=200) | st.text(max_size=80).map(str.encode)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=BYTES, chunk=st.integers(1, 50), keep=st.booleans())
def test_fuzz_row_14_any_bytes_on_stdin(
    monkeypatch: pytest.MonkeyPatch, data: bytes, chunk: int, keep: bool
) -> None:
    """Text, or an error that names the first bad byte; however the bytes were chunked."""
    monkeypatch.setattr("sys.stdin", Stdin(data, chunk=chunk))
    try:
        expected = data.decode("utf-8")
    except UnicodeDecodeError as bad:
        words = f"stdin is not valid UTF-8: byte 0x{data[bad.start]:02x} at offset {bad.start}."
        with pytest.raises(InvalidText, match=words):
            read([], keep_newline=keep)
        monkeypatch.setattr("sys.stdin", Stdin(data, chunk=chunk))
        replaced = read([], errors="replace", keep_newline=True)
        assert replaced == data.decode("utf-8", "replace")
        return
    text = read([], keep_newline=keep)
    if keep or not expected.endswith("\n"):
        assert text == expected
    else:
        assert expected in (text + "\n", text + "\r\n")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a\x00b", "a\x00b"),
        (b"\xef\xbb\xbfa\n", "\ufeffa"),
        (b"a\r\nb\r\n", "a\r\nb"),
        (b"a\n\n", "a\n"),
        (b"a\r", "a\r"),
        (b"no last newline", "no last newline"),
        (b"\n", ""),
        (b"", ""),
    ],
)
def test_row_16_nul_bom_crlf_no_newline(
    monkeypatch: pytest.MonkeyPatch, data: bytes, text: str
) -> None:
    monkeypatch.setattr("sys.stdin", Stdin(data))
    assert read([]) == text


def test_parts_are_joined_and_stdin_has_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.stdin", Stdin(b"from stdin\n"))
    file = tmp_path / "file.txt"
    file.write_bytes(b"from a file\n")
    assert read(["one", "-", "two"], [str(file)]) == "from a file\none\nfrom stdin\ntwo"


def test_stdin_is_left_alone_when_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = Stdin(b"not yours")
    monkeypatch.setattr("sys.stdin", stdin)
    assert read(["one"]) == "one"
    assert stdin.buffer.read() == b"not yours"


@pytest.mark.parametrize(("parts", "files"), [(["-", "-"], []), (["-"], ["-"])])
def test_stdin_can_be_read_once(
    monkeypatch: pytest.MonkeyPatch, parts: list[str], files: list[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Stdin(b"x"))
    with pytest.raises(InvalidInput, match="more than once"):
        read(parts, files)


def test_a_terminal_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Stdin(b"", terminal=True))
    with pytest.raises(InvalidInput, match="There is no prompt"):
        read([])


def test_row_04_stdin_closed_and_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert read(["given"]) == "given"
    with pytest.raises(InvalidInput, match="stdin is closed"):
        read([])


@pytest.mark.parametrize("text", ["a\udcff", "\ud800", "\udfffé"])
def test_row_15_lone_surrogates_in_an_argument(text: str) -> None:
    with pytest.raises(InvalidText, match="prompt is not valid UTF-8"):
        read([text])
    replaced = read([text], errors="replace")
    assert "\ufffd" in replaced
    replaced.encode("utf-8")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is a directory"):
        read([], [str(tmp_path)])
    with pytest.raises(InvalidInput, match=r"Cannot read .*missing: No such file"):
        read([], [str(tmp_path / "missing")])


def test_a_device_that_fails_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def read(self, size: int) -> bytes:
            raise OSError(5, "Input/output error")

    stdin = Stdin(b"")
    stdin.buffer = Broken()
    monkeypatch.setattr("sys.stdin", stdin)
    with pytest.raises(StorageError, match="Cannot read stdin: Input/output error"):
        read([])


def test_chunks_have_a_bounded_size(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(os.urandom(10_000))
    chunks = list(inputs.read_chunks(file, size=1000))
    assert [len(chunk) for chunk in chunks] == [1000] * 10
    assert b"".join(chunks) == file.read_bytes()

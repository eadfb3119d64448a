"""Input that is wrong, odd or without end: one line and a status, or the same result everywhere.

The commands that read text are taken together: encode and decode, and generate and score with a
tiny model. What only one of them does is in its own file.
"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.cli.main import cli
from llmcli.tokenization.tokenizer import Tokenizer

CALLS = {
    "encode": ["encode"],
    "generate": ["generate", "-n", "1", "--seed", "1"],
    "score": ["score"],
}
LOCALES = ["C", "C.UTF-8", "POSIX"]
# Whatever else they do, no result stands on stdout and one line on stderr.
HOSTILE = "a\x1b]52;c;eA==\x07b\x1b[2J\u202e\x9b[/red][bold]"


@pytest.fixture(scope="module")
def call(tiny_gpt2: Path) -> Any:
    """Run one of the commands in this process, with the tiny model."""

    def run(command: str, *args: str, input: bytes | None = None) -> Result:
        arguments = [*CALLS.get(command, [command]), "-m", str(tiny_gpt2), *args]
        return CliRunner().invoke(cli, arguments, input=input, catch_exceptions=False)

    return run


def _refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in words), result.stderr


# -- bytes that are not text -----------------------------------------------------------------


@pytest.mark.parametrize("command", CALLS)
@pytest.mark.parametrize(
    ("data", "offset"),
    [(b"ab\xffcd", 2), (b"\xc3", 0), (b"a\xed\xa0\x80", 1), (b"\xf0\x9f\xa6", 0)],
)
def test_row_14_invalid_utf8_is_named_by_its_offset(
    call: Any, tmp_path: Path, command: str, data: bytes, offset: int
) -> None:
    _refused(call(command, "-", input=data), f"offset {offset}", "--errors replace")
    path = tmp_path / "text"
    path.write_bytes(data)
    _refused(call(command, "-i", str(path)), str(path), f"offset {offset}")


@pytest.mark.parametrize("command", CALLS)
def test_row_15_an_argument_that_is_not_utf8(call: Any, command: str) -> None:
    # As Python hands over an argument with the byte 0xff in it.
    _refused(call(command, "ab\udcff"), "offset 2")


@given(data=st.binary(min_size=1, max_size=40))
@settings(max_examples=60)
def test_row_14_any_bytes_are_encoded_or_refused(call: Any, data: bytes) -> None:
    result = call("encode", input=data)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as exc:
        _refused(result, f"offset {exc.start}")
    else:
        assert call("decode", input=result.stdout_bytes).stdout_bytes == data


@pytest.mark.parametrize(
    "record", [b'{"prompt": "\\ud800"}', b'{"prompt": "\xff"}', b"[" * 100_000, b'{"prompt": 1']
)
def test_row_14_15_17_a_bad_record_spoils_no_other(call: Any, record: bytes) -> None:
    data = b"\n".join([b'{"id": 1, "prompt": "a"}', record, b'{"id": 2, "prompt": "b"}'])
    result = call("encode", "--jsonl", "--json", input=data)
    first, second, third = map(json.loads, result.stdout.splitlines())
    assert (first["id"], third["id"], result.exit_code) == (1, 2, 4)
    assert "error" in second
    assert result.stderr.count("\n") == 1


# -- odd, and text all the same --------------------------------------------------------------


@pytest.mark.parametrize("data", [b"\0a\0", b"\xef\xbb\xbfa", b"a\r\nb\rc", b"no newline", b"\n"])
def test_row_16_bytes_count_as_they_are_in_every_locale(
    tiny_gpt2: Path, clean_environment: dict[str, str], data: bytes
) -> None:
    expected = Tokenizer.from_folder(tiny_gpt2).ids(data.decode("utf-8"))
    for locale in LOCALES:
        result = subprocess.run(
            [sys.executable, "-m", "llmcli", "encode", "-m", str(tiny_gpt2)],
            input=data,
            capture_output=True,
            env={**clean_environment, "LC_ALL": locale, "PATH": os.environ["PATH"]},
            timeout=60,
            check=False,
        )
        assert (result.stdout.split(), result.stderr) == (
            [str(token_id).encode() for token_id in expected],
            b"",
        )


@pytest.mark.parametrize("data", [b"\0a\0the fox", b"\xef\xbb\xbfthe fox", b"the\r\nfox\r"])
def test_row_16_score_counts_the_same_bytes_and_tokens(
    call: Any, tiny_gpt2: Path, data: bytes
) -> None:
    result = call("score", "--json", input=data)
    record = json.loads(result.stdout.splitlines()[0])
    assert record["bytes"] == len(data)
    ids = Tokenizer.from_folder(tiny_gpt2).ids(data.decode("utf-8"))
    assert record["tokens"] in (len(ids), len(ids) - 1)


@pytest.mark.parametrize("command", ["generate", "score"])
def test_row_18_an_empty_text_is_refused_with_the_way_out(call: Any, command: str) -> None:
    _refused(call(command, ""))
    _refused(call(command, "-", input=b""))


def test_row_18_encode_of_nothing_is_nothing(call: Any) -> None:
    assert call("encode", "--count", "").stdout == "0\n"
    assert call("decode", input=b"").stdout_bytes == b""


def test_row_19_a_prompt_longer_than_the_context_states_both_numbers(
    call: Any, tiny_gpt2: Path
) -> None:
    text = "the fox" + " the fox" * 99
    count = len(Tokenizer.from_folder(tiny_gpt2).ids(text))
    _refused(call("generate", text), str(count), "64")


@given(text=st.sampled_from(["<|endoftext|>", "a<|endoftext|>b", "<|endoftext|><|endoftext|>"]))
@settings(max_examples=3)
def test_row_26_control_tokens_in_a_text_are_text(call: Any, tiny_gpt2: Path, text: str) -> None:
    ids = Tokenizer.from_folder(tiny_gpt2).ids(text)
    assert len(ids) > text.count("<|")
    assert call("encode", "--count", text).stdout == f"{len(ids)}\n"
    generated = json.loads(call("generate", "--json", text).stdout.splitlines()[0])
    assert generated["prompt_tokens"] == len(ids)
    scored = json.loads(call("score", "--json", text).stdout.splitlines()[0])
    assert scored["tokens"] in (len(ids), len(ids) - 1)


# -- without end -----------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["yes 'the fox and the river'", "cat /dev/zero"])
def test_row_24_memory_stays_flat(small_folder: Path, source: str) -> None:
    """6 MB through a pipe; encoding that much at once takes most of a gigabyte."""
    script = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1], shell=True, check=True, stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    command = (
        f"{source} | head -c 6000000 | {sys.executable} -m llmcli encode --count -m {small_folder}"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, command], capture_output=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 200_000  # KB


@pytest.mark.parametrize("option", ["--lines", "--jsonl"])
def test_row_17_a_line_without_end_is_an_error_record(
    call: Any, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    from llmcli.io import records

    monkeypatch.setattr(records, "MAX_RECORD", 1 << 20)
    data = b'"a"\n"' + b"x" * (3 << 20) + b'"\n"b"\n'
    result = call("encode", option, "--json", input=data)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert ["error" in record for record in found] == [False, True, False]
    assert "longer than 1 MiB" in found[1]["error"]
    assert result.exit_code == 4


# -- what would drive the terminal -----------------------------------------------------------


def _on_terminal(*args: str) -> bytes:
    """What a command shows on a terminal."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "llmcli", *args],
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(master)
    assert process.wait(timeout=60) in (0, 2)
    return shown


def _is_harmless(shown: bytes) -> bool:
    text = shown.decode("utf-8")
    raw = ["\x1b]", "\x07", "\x1b[2J", "\x9b", "\u202e"]
    return not any(control in text for control in raw) and "[/red]" in text.replace("│", "")


def test_row_27_28_tokens_and_text_are_escaped_on_a_terminal(
    small_folder: Path, tmp_path: Path
) -> None:
    model = ["-m", str(small_folder), "--color", "never"]
    ids = map(str, Tokenizer.from_folder(small_folder).ids(HOSTILE))
    path = tmp_path / "text"
    path.write_text(HOSTILE, "utf-8")
    assert _is_harmless(_on_terminal("encode", *model, "-i", str(path)))
    assert _is_harmless(_on_terminal("encode", *model, "--max-tokens", "90", "-i", str(path)))
    assert _is_harmless(_on_terminal("decode", *model, *ids))


def test_row_29_names_of_files_and_models_are_escaped(small_folder: Path) -> None:
    name = f"{HOSTILE}.txt".replace("/", "|")
    shown = _on_terminal("encode", "--color", "never", "-m", str(small_folder), "-i", name)
    assert _is_harmless(shown.replace(b"[|red]", b"[/red]"))
    shown = _on_terminal("encode", "--color", "never", "--offline", "-m", name, "x")
    assert not any(control in shown for control in (b"\x1b]", b"\x07", b"\x1b[2J"))


def test_row_25_27_through_a_pipe_the_bytes_are_exact(call: Any) -> None:
    ids = call("encode", input=HOSTILE.encode("utf-8")).stdout_bytes
    assert call("decode", input=ids).stdout_bytes == HOSTILE.encode("utf-8")
    short = call("encode", "--max-tokens", "1000", input=HOSTILE.encode("utf-8"))
    assert short.stdout_bytes == HOSTILE.encode("utf-8")


# -- input without end -----------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero here")
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["generate"], "longer than 16 MiB, more than any prompt"),
        (["next"], "longer than 16 MiB, more than any prompt"),
        (["rank", "yes"], "longer than 16 MiB, more than any prompt"),
        (["encode", "--json"], "which --json holds in memory"),
        (["encode", "--split", "9"], "which --split holds in memory"),
        (["encode", "--compare", "fable"], "which --compare holds in memory"),
        (["encode", "--max-tokens", "9", "--truncate", "head"], "which --truncate head holds"),
    ],
)
def test_row_24_what_needs_the_end_of_endless_input_says_so(
    call: Any, args: list[str], words: str
) -> None:
    _refused(call(args[0], *args[1:], "-i", "/dev/zero"), words)


@pytest.mark.parametrize("command", ["generate", "next"])
def test_row_24_a_long_prompt_is_read_up_to_the_context(call: Any, command: str) -> None:
    _refused(call(command, input=b"the fox and" * 100_000), "more than 64 tokens", "--overflow")
    result = call("generate", "--overflow", "left", input=b"the fox and" * 20_000)
    assert result.exit_code == 0


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero here")
def test_row_24_what_has_a_bound_stops_reading_there(call: Any) -> None:
    result = call("encode", "--max-tokens", "3", "-i", "/dev/zero")
    assert (result.exit_code, result.stderr) == (0, "")
    assert set(result.stdout) == {"\0"}
    found = call("encode", "--max-tokens", "3", "--json", "-i", "/dev/zero")
    assert json.loads(found.stdout)["text"] == result.stdout
    assert json.loads(found.stdout)["truncated"] is True
    assert call("encode", "--fits", "3", "-i", "/dev/zero").exit_code == 3

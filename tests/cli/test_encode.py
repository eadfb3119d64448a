"""``llmcli encode``: forms, records, gates, files; in processes where streams matter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.cli.main import cli
from llmcli.tokenization.tokenizer import Tokenizer

TEXT = "Once upon a time the fox didn't say 🦊.\n\nThe river <|endoftext|> end."


@pytest.fixture(scope="module")
def tokenizer(small_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(small_folder)


@pytest.fixture
def encode(small_folder: Path) -> Any:
    """Run the command in this process."""

    def run(*args: str, input: str | bytes | None = None) -> Result:
        return CliRunner().invoke(
            cli, ["encode", "-m", str(small_folder), *args], input=input, catch_exceptions=False
        )

    return run


def _records(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_ids_on_a_line(encode: Any, tokenizer: Tokenizer) -> None:
    expected = " ".join(map(str, tokenizer.ids(TEXT))) + "\n"
    assert encode(TEXT).stdout == expected
    assert encode(input=TEXT).stdout == expected
    assert encode("-", input=TEXT).stdout == expected


def test_a_final_newline_counts(encode: Any, tokenizer: Tokenizer) -> None:
    assert encode(input="the fox\n").stdout.split() == [str(i) for i in tokenizer.ids("the fox\n")]


def test_json_has_everything(encode: Any, tokenizer: Tokenizer, small_folder: Path) -> None:
    (record,) = _records(encode("--json", TEXT))
    encoding = tokenizer.encode(TEXT)
    assert record["ids"] == encoding.ids
    assert record["offsets"] == [list(span) for span in encoding.char_offsets]
    assert record["byte_offsets"] == [list(span) for span in encoding.byte_offsets]
    assert record["count"] == len(encoding.ids)
    assert record["model"] == str(small_folder)
    pieces = zip(record["tokens"], record["bytes"], strict=True)
    data = b"".join(bytes.fromhex(raw) if raw else token.encode() for token, raw in pieces)
    assert data == TEXT.encode("utf-8")


def test_tokens_are_escaped_one_a_line(encode: Any) -> None:
    result = encode("--tokens", 'a\\b "c"\n\x1b[2J\u202e')
    assert "\x1b" not in result.stdout
    assert "\u202e" not in result.stdout
    lines = result.stdout.splitlines()
    assert all(line.startswith('"') and line.endswith('"') for line in lines)
    joined = "".join(line[1:-1] for line in lines)
    # The mark may be one token or several; each spells what it can.
    assert joined.replace("\\xe2\\x80\\xae", "\\u202e") == 'a\\\\b \\"c\\"\\n\\x1b[2J\\u202e'


def test_count(encode: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    count = len(tokenizer.ids(TEXT))
    assert encode("--count", TEXT).stdout == f"{count}\n"
    assert encode("--count", "--add-bos", "--add-eos", TEXT).stdout == f"{count + 2}\n"
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text(TEXT, "utf-8")
    two.write_text("", "utf-8")
    result = encode("--count", "-i", str(one), "-i", str(two))
    assert result.stdout == f"{count} {one}\n0 {two}\n{count} total\n"
    assert encode("--count", "-i", str(one)).stdout == f"{count}\n"


@pytest.mark.parametrize(
    ("option", "data", "texts"),
    [
        ("--lines", "a b\r\n\nthe fox", ["a b\r", "", "the fox"]),
        ("--lines", "a\n", ["a"]),
        ("--lines", "", []),
        ("--null", "a\nb\0\0c", ["a\nb", "", "c"]),
    ],
)
def test_records(
    encode: Any, tokenizer: Tokenizer, option: str, data: str, texts: list[str]
) -> None:
    expected = [" ".join(map(str, tokenizer.ids(text))) for text in texts]
    assert encode(option, input=data).stdout.split("\n")[:-1] == expected
    counts = encode(option, "--count", input=data).stdout.split()
    assert counts == [str(len(tokenizer.ids(text))) for text in texts]


def test_json_lines_pass_their_fields_through(encode: Any, tokenizer: Tokenizer) -> None:
    data = '\ufeff{"id": 7, "text": "the fox", "x": null}\n\n{"text": "é", "id": "b"}'
    result = encode("--jsonl", "--field", "text", "--json", input=data)
    first, second = _records(result)
    assert (first["id"], first["x"], second["id"]) == (7, None, "b")
    assert first["ids"] == tokenizer.ids("the fox")
    assert second["ids"] == tokenizer.ids("é")


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[" * 200_000,
        b'{"prompt": 3}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "\xff"}',
        b'{"text": "other field"}',
        b"12",
    ],
)
def test_a_bad_record_is_an_error_record(encode: Any, line: bytes) -> None:
    data = b'{"prompt": "a", "id": 1}\n' + line + b'\n{"prompt": "b", "id": 3}\n'
    result = encode("--jsonl", "--json", input=data)
    first, second, third = _records(result)
    assert (first["id"], third["id"]) == (1, 3)
    assert "ine 2" in second["error"]
    assert result.exit_code == 4
    assert encode("--jsonl", input=data).exit_code == 2


def test_invalid_utf8(encode: Any, tokenizer: Tokenizer) -> None:
    result = encode(input=b"abc\xffdef")
    assert result.exit_code == 2
    assert "0xff at offset 3" in result.stderr
    assert encode("--errors", "replace", input=b"abc\xffdef").stdout.split() == [
        str(i) for i in tokenizer.ids("abc\ufffddef")
    ]
    lines = encode("--lines", "--json", "--count", input=b"a\nb\xff\nc\n")
    assert lines.exit_code == 4
    assert [("error" in record) for record in _records(lines)] == [False, True, False]


@given(data=st.binary(max_size=40), places=st.lists(st.integers(0, 40), max_size=4))
@settings(max_examples=80)
def test_the_offset_of_a_bad_byte_does_not_depend_on_how_bytes_arrive(
    data: bytes, places: list[int]
) -> None:
    from llmcli.errors import InvalidText
    from llmcli.io.records import text_parts

    edges = sorted({0, len(data), *(place for place in places if place < len(data))})
    chunks = [data[a:b] for a, b in pairwise(edges)]
    try:
        expected = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        with pytest.raises(InvalidText, match=f"offset {exc.start}\\."):
            list(text_parts(chunks, source="x"))
    else:
        assert "".join(text_parts(chunks, source="x")) == expected


def test_special(encode: Any, tokenizer: Tokenizer) -> None:
    end = str(tokenizer.eos_id)
    assert end not in encode(TEXT).stdout.split()
    assert end in encode("--special", "allow", TEXT).stdout.split()
    result = encode("--special", "forbid", TEXT)
    assert result.exit_code == 2
    assert "<|endoftext|>" in result.stderr


def test_fits(encode: Any, tokenizer: Tokenizer) -> None:
    count = len(tokenizer.ids(TEXT))
    held, broke = encode("--fits", str(count), TEXT), encode("--fits", str(count - 1), TEXT)
    assert (held.exit_code, held.stdout) == (0, "")
    assert (broke.exit_code, broke.stdout) == (3, "")
    (record,) = _records(encode("--fits", "2", "--json", TEXT))
    assert (record["count"], record["fits"]) == (count, False)


@pytest.mark.parametrize("form", ["npy", "bin"])
def test_files_of_ids(encode: Any, tokenizer: Tokenizer, tmp_path: Path, form: str) -> None:
    target = tmp_path / "ids"
    data = "the fox\na b\n"
    result = encode(
        "--lines", "--format", form, "--add-eos", "-o", str(target), "--json", input=data
    )
    expected = [
        *tokenizer.ids("the fox"),
        tokenizer.eos_id,
        *tokenizer.ids("a b"),
        tokenizer.eos_id,
    ]
    loaded = np.load(target, mmap_mode="r") if form == "npy" else np.fromfile(target, "<u2")
    assert loaded.tolist() == expected
    (record,) = _records(result)
    assert (record["count"], record["dtype"]) == (len(expected), "uint16")


def test_a_failing_run_leaves_the_old_file(encode: Any, tmp_path: Path) -> None:
    target = tmp_path / "ids.bin"
    target.write_bytes(b"old")
    result = encode("--format", "bin", "-o", str(target), input=b"the fox \xff")
    assert result.exit_code == 2
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["ids.bin"]


def test_the_input_is_never_overwritten(encode: Any, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("the fox", "utf-8")
    result = encode("--format", "bin", "-i", str(path), "-o", str(path))
    assert result.exit_code == 2
    assert path.read_text("utf-8") == "the fox"


def test_truncation_prints_text(encode: Any, tokenizer: Tokenizer) -> None:
    result = encode("--max-tokens", "2", "Once the the wood")
    assert result.stdout == "Once the"
    lines = encode("--max-tokens", "1", "--truncate", "head", "--lines", input="a the\n\nb the\n")
    assert lines.stdout == " the\n\n the\n"
    (record,) = _records(encode("--jsonl", "--max-tokens", "1", input='{"prompt": "Once the"}'))
    assert (record["prompt"], record["truncated"]) == ("Once", True)


def test_chunks(encode: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    text = "Once upon a time the fox was old. The river 🦊 was old too.\n\n" * 5
    chunks = _records(encode("--split", "16", input=text))
    assert "".join(chunk["text"] for chunk in chunks) == text
    assert all(chunk["count"] <= 16 for chunk in chunks)
    assert chunks[-1]["byte_offsets"][1] == len(text.encode("utf-8"))
    encode("--split", "16", "-o", str(tmp_path / "c-{index:03}.txt"), input=text)
    files = sorted(tmp_path.iterdir())
    assert files[1].name == "c-001.txt"
    assert "".join(path.read_bytes().decode("utf-8") for path in files) == text
    assert encode("--split", "16", "-o", str(tmp_path / "one"), input=text).exit_code == 2


def test_compare(encode: Any, tokenizer_folders: Any, tokenizer: Tokenizer) -> None:
    other = str(tokenizer_folders("llama3"))
    result = encode("--compare", other, TEXT)
    head, ours, theirs = result.stdout.splitlines()
    assert head.split()[:2] == ["model", "tokens"]
    assert ours.split()[1] == str(len(tokenizer.ids(TEXT)))
    assert theirs.split()[0] == other
    first, second = _records(encode("--compare", other, "--json", TEXT))
    assert first["tokens_per_byte"] == first["count"] / len(TEXT.encode("utf-8"))
    assert second["model"] == other


@pytest.mark.parametrize(
    "args",
    [
        ["--count", "--tokens", "x"],
        ["--lines", "--null", "x"],
        ["-o", "f", "x"],
        ["--overlap", "2", "x"],
        ["--boundary", "word", "x"],
        ["--boundary", "word", "--max-tokens", "3", "x"],
        ["--truncate", "tail", "x"],
        ["--truncate", "head", "--split", "9", "x"],
        ["--field", "text", "--lines", "x"],
        ["--split", "4", "--overlap", "4", "x"],
        ["--split", "0", "x"],
        ["--add-bos", "--tokens", "x"],
        ["--format", "npy", "x"],
        ["-i", "missing.txt"],
        ["-i", "f", "x"],
        ["-i", "-", "-i", "-"],
        ["--threads", "0", "x"],
    ],
)
def test_wrong_calls_exit_2_with_one_line(encode: Any, args: list[str]) -> None:
    result = encode(*args, input="")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1


def test_the_environment_may_set_what_this_call_does_not_need(
    encode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMCLI_ENCODE_TRUNCATE", "head")
    assert encode("x").exit_code == 0
    assert encode("--max-tokens", "1", "Once the").stdout == " the"


def test_the_argument_leaves_stdin_alone(run_llmcli: Any, small_folder: Path) -> None:
    result = run_llmcli("encode", "-m", str(small_folder), "the", input=b"unasked")
    assert result.returncode == 0
    assert b"write '-'" in result.stderr


def test_neither_torch_nor_transformers_nor_rich(small_folder: Path) -> None:
    script = (
        "import sys\n"
        "from llmcli.cli.main import cli\n"
        f"args = ['-m', {str(small_folder)!r}]\n"
        "for call in (['encode', '--count', 'the fox'], ['encode', 'x'], ['decode', '1', '2']):\n"
        "    try:\n"
        "        cli.main([call[0], *args, *call[1:]])\n"
        "    except SystemExit as exc:\n"
        "        assert not exc.code, exc.code\n"
        "heavy = {'torch', 'transformers', 'rich', 'numpy', 'huggingface_hub', 'requests'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr


def test_a_reader_that_leaves_ends_it_quietly(small_folder: Path) -> None:
    """``encode | head -c 1`` of an endless text: the threads that encode end with the rest."""
    command = (
        f"yes 'the fox and the river' | {sys.executable} -m llmcli encode -m {small_folder} "
        "| head -c 1; exit ${PIPESTATUS[1]}"
    )
    result = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60, check=False)
    assert len(result.stdout) == 1
    assert result.stderr == b""
    assert result.returncode == 141


def test_the_bar_is_gone_before_the_result(small_folder: Path, tmp_path: Path) -> None:
    """Both on one terminal: the count stands on a line that nothing erases."""
    import pty

    path = tmp_path / "text"
    path.write_text("the fox " * 5000, "utf-8")
    script = (
        "import llmcli.io.records as records; records._ANNOUNCED = 1\n"
        "from llmcli.cli.main import cli\n"
        f"cli.main(['encode', '--count', '-m', {str(small_folder)!r}, '-i', 'text'])\n"
    )
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
        cwd=tmp_path,  # a short name leaves the bar its place in 80 columns
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(master)
    assert process.wait(timeout=60) == 0
    assert b"kB" in shown  # the bar counts them
    assert re.search(rb"\x1b\[2K1000\d\r\n$", shown)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals here")
@pytest.mark.parametrize("color", ["always", "never"])
def test_a_terminal_gets_tints_and_nothing_raw(small_folder: Path, color: str) -> None:
    import pty

    master, slave = pty.openpty()
    text = "the\x1b]52;c;x\x07 fox\u202e\nriver"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "llmcli", "encode", "-v"),
            *("--color", color, "-m", str(small_folder), text),
        ],
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=subprocess.DEVNULL,
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(master)
    assert process.wait(timeout=60) == 0
    assert b"\x1b]52" not in shown
    assert b"\x07" not in shown
    assert "\u202e".encode() not in shown
    assert b"\\x1b" in shown
    assert b"tokens, " in shown
    assert (b"\x1b[30;106m" in shown) == (color == "always"), "16 colours: no TERM"

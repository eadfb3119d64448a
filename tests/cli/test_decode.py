"""``llmcli decode``: what was encoded comes back, byte for byte, from every form of ids."""

from __future__ import annotations

import json
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

TEXT = "Once é 東京 🦊\r\n\0\x1b[2J\u202e<|endoftext|>\n\n"


@pytest.fixture(scope="module")
def tokenizer(small_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(small_folder)


@pytest.fixture(scope="module")
def llmcli(small_folder: Path) -> Any:
    """Run a command in this process."""

    def run(command: str, *args: str, input: str | bytes | None = None) -> Result:
        return CliRunner().invoke(
            cli, [command, "-m", str(small_folder), *args], input=input, catch_exceptions=False
        )

    return run


@given(text=st.text(max_size=60))
@settings(max_examples=80)
def test_encode_then_decode_gives_the_bytes_back(llmcli: Any, text: str) -> None:
    data = text.encode("utf-8")
    assert llmcli("decode", input=llmcli("encode", input=data).stdout).stdout_bytes == data
    encoded = llmcli("encode", "--json", input=data).stdout
    assert llmcli("decode", input=encoded).stdout_bytes == data


def test_the_same_in_processes_and_any_locale(small_folder: Path) -> None:
    data = (TEXT * 3).encode("utf-8")
    program = f"{sys.executable} -m llmcli"
    for locale in ("C", "C.UTF-8", "POSIX"):
        result = subprocess.run(
            f"{program} encode -m {small_folder} | {program} decode -m {small_folder}",
            shell=True,
            input=data,
            capture_output=True,
            env={"LC_ALL": locale, "PATH": "/usr/bin:/bin", "HOME": str(small_folder)},
            timeout=60,
            check=False,
        )
        assert (result.stdout, result.stderr) == (data, b"")


def test_the_same_for_a_large_text_and_the_real_vocabulary(gpt2_folder: Path) -> None:
    data = (TEXT + "they'll   say: 12345 ").encode("utf-8") * 12_000
    program = f"{sys.executable} -m llmcli"
    result = subprocess.run(
        f"{program} encode -m {gpt2_folder} | {program} decode -m {gpt2_folder}",
        shell=True,
        input=data,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert result.stdout == data


@pytest.mark.parametrize(
    "form", ["spaces", "commas", "lines", "json", "object", "pretty", "npy", "bin", "arguments"]
)
def test_every_form_of_ids(llmcli: Any, tokenizer: Tokenizer, tmp_path: Path, form: str) -> None:
    ids = tokenizer.ids(TEXT)
    words = list(map(str, ids))
    if form == "arguments":
        result = llmcli("decode", *words)
    elif form in ("npy", "bin"):
        path = tmp_path / f"ids.{form}"
        array = np.array(ids, dtype=np.uint16)
        np.save(path, array) if form == "npy" else array.tofile(path)
        result = llmcli("decode", "-i", str(path))
    else:
        data = {
            "spaces": " ".join(words),
            "commas": ", ".join(words),
            "lines": "\n".join(words) + "\n",
            "json": json.dumps(ids),
            "object": json.dumps({"ids": ids}),
            "pretty": json.dumps({"ids": ids}, indent=1),
        }[form]
        result = llmcli("decode", input=data)
    assert result.stdout_bytes == TEXT.encode("utf-8")


def test_a_wide_raw_file(llmcli: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "x"
    np.array(tokenizer.ids("the fox"), dtype=np.uint32).tofile(path)
    result = llmcli("decode", "-i", str(path), "--format", "bin", "--dtype", "uint32")
    assert result.stdout == "the fox"


def test_half_a_character_is_kept_replaced_or_refused(llmcli: Any, tokenizer: Tokenizer) -> None:
    first = next(i for i in tokenizer.ids("\U0001f701") if len(tokenizer.token_bytes(i)) == 1)
    assert llmcli("decode", str(first)).stdout_bytes == tokenizer.token_bytes(first)
    assert llmcli("decode", "--errors", "replace", str(first)).stdout == "\ufffd"
    refused = llmcli("decode", "--errors", "strict", str(first))
    assert refused.exit_code == 2
    record = json.loads(llmcli("decode", "--json", str(first)).stdout)
    assert record == {"text": "\ufffd", "bytes": tokenizer.token_bytes(first).hex()}


def test_skip_special(llmcli: Any, tokenizer: Tokenizer) -> None:
    ids = [str(tokenizer.eos_id), *map(str, tokenizer.ids("fox"))]
    assert llmcli("decode", *ids).stdout == "<|endoftext|>fox"
    assert llmcli("decode", "--skip-special", *ids).stdout == "fox"


def test_json_lines(llmcli: Any, tokenizer: Tokenizer) -> None:
    lines = [
        json.dumps({"id": 1, "ids": tokenizer.ids("the")}),
        "[1, 99999999]",
        "{",
        '{"ids": [true]}',
        json.dumps(tokenizer.ids("fox")),
    ]
    result = llmcli("decode", "--json", input="\n".join(lines))
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert (records[0]["id"], records[0]["text"], records[-1]["text"]) == (1, "the", "fox")
    assert all("error" in record for record in records[1:4])
    assert "99999999 at position 1" in records[1]["error"]
    assert result.exit_code == 4


@pytest.mark.parametrize("count", [1, 5, 70_000])
def test_an_id_outside_the_vocabulary_is_named_with_its_position(llmcli: Any, count: int) -> None:
    result = llmcli("decode", input="5 " * count + "4294967295 5")
    assert result.exit_code == 2
    assert f"4294967295 at position {count}" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("data", ["x", "1 2 three", "-1", "1.5", "\x00", "9" * 5000, "[1, [2]]"])
def test_what_is_no_id_is_an_error(llmcli: Any, data: str) -> None:
    result = llmcli("decode", input=data)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1


@given(data=st.binary(max_size=60) | st.text(alphabet='0123456789[]{},"ids: \n').map(str.encode))
@settings(max_examples=80)
def test_anything_on_stdin_is_decoded_or_refused(llmcli: Any, data: bytes) -> None:
    result = llmcli("decode", input=data)
    assert result.exit_code in (0, 2)
    assert (result.exit_code == 2) == result.stderr.startswith("Error: ")


@given(ids=st.lists(st.integers(0, 300)), places=st.lists(st.integers(0, 500), max_size=5))
@settings(max_examples=60)
def test_ids_do_not_depend_on_how_bytes_arrive(ids: list[int], places: list[int]) -> None:
    from llmcli.io.id_records import _text_ids

    data = b", ".join(b"%d" % token_id for token_id in ids)
    edges = sorted({0, len(data), *(place for place in places if place < len(data))})
    chunks = [data[a:b] for a, b in pairwise(edges)]
    assert [i for part in _text_ids(chunks, "x") for i in part] == ids

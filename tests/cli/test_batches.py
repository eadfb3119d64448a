"""Batches of every verb into files: the same rows as one at a time, gone on with after a kill."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

from llmcli.cli.main import cli

TEXTS = ["the fox", "said to the crow", "", "Once upon a time"]
ROWS: list[dict[str, Any]] = [
    {"id": f"r{n}", "prompt": text, "error": None, "index": 5} for n, text in enumerate(TEXTS)
]
ROWS[1] |= {"choices": ["give", "me the cheese"]}
ROWS[3] |= {"choices": ["there was", "no"]}

VERBS = {
    "next": ("next", "-n", "2", "--temperature", "0.5"),
    "rank": ("rank", "--normalize", "bytes"),
    "rank choices": ("rank", "a fox", "b"),
    "score": ("score", "--field", "prompt", "--bos"),
    "encode": ("encode",),
    "encode count": ("encode", "--count", "--threads", "1"),
    "encode cut": ("encode", "--max-tokens", "1"),
}
FAILED = {"next": {2}, "rank": {0, 2}, "rank choices": set(), "score": {2}}


def run(model: Path, *args: str, input: str = "", code: int = 0) -> Result:
    command, *rest = args
    result = CliRunner().invoke(cli, [command, "-m", str(model), *rest], input=input)
    assert result.exit_code == code, result.output
    return result


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_s_rows_survive_a_kill(
    tiny_gpt2: Path, tmp_path: Path, table: Path, verb: str
) -> None:
    failed = FAILED.get(verb, set())
    code = 4 if failed else 0
    asked = (*VERBS[verb], "--jsonl", "-i", str(table))
    out = tmp_path / "out.jsonl"
    said = run(tiny_gpt2, *asked, "-o", str(out), code=code).stderr
    assert said.startswith("4 of 4 records, ")
    data = out.read_bytes()
    rows = rows_of(data.decode())
    assert [(row["id"], row["record"]) for row in rows] == [(f"r{n}", n) for n in range(4)]
    assert {n for n, row in enumerate(rows) if next(reversed(row)) == "error"} == failed
    manifest = json.loads((tmp_path / "out.jsonl.llmcli.json").read_text())
    assert (manifest["command"], manifest["model"]) == (VERBS[verb][0], str(tiny_gpt2))
    for cut in (0, len(data) // 2, len(data) - 1):
        out.write_bytes(data[:cut])
        run(tiny_gpt2, *asked, "-o", str(out), "--resume", code=code)
        assert out.read_bytes() == data
    streamed = rows_of(run(tiny_gpt2, *asked, "--json", code=code).stdout)
    assert [row for row in streamed if row.get("unit") != "total"] == rows


@pytest.mark.parametrize(
    ("verb", "alone"),
    [
        ("next", ("next", "-n", "2", "--temperature", "0.5", "--json", TEXTS[3])),
        (
            "rank",
            ("rank", "--normalize", "bytes", "--json", "--prompt", TEXTS[3], "there was", "no"),
        ),
        ("score", ("score", "--bos", "--json", TEXTS[3])),
        ("encode", ("encode", "--json", TEXTS[3])),
    ],
)
def test_a_row_holds_what_the_text_alone_gives(
    tiny_gpt2: Path, table: Path, verb: str, alone: tuple[str, ...]
) -> None:
    asked = (*VERBS[verb], "--jsonl", "--json", "-i", str(table))
    rows = rows_of(run(tiny_gpt2, *asked, code=4 if FAILED.get(verb) else 0).stdout)
    [answer] = rows_of(run(tiny_gpt2, *alone).stdout)
    brought = set(ROWS[3]) - set(answer)
    same = {key: value for key, value in rows[3].items() if key not in brought}
    del same["record"]
    assert same == {key: value for key, value in answer.items() if key in same}
    assert len(same) > 5


def test_several_inputs_by_a_pattern_and_what_names_a_record(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    with open(tmp_path / "b.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["name", "q"], ["b1", "the fox"], ["b2", "a crow, or\ntwo"]])
    table = pyarrow.table({"q": ["time", "a"], "name": ["a1", None], "day": [1.5, 2.5]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    asked = ("encode", "--count", "--jsonl", "--json", "--field", "q", "--id-field", "name")
    found = run(tiny_gpt2, *asked, "-i", str(tmp_path / "[ab].*"), code=4)
    rows = rows_of(found.stdout)
    assert [row["name"] for row in rows] == ["a1", None, "b1", "b2"]
    assert [row.get("day") for row in rows] == [1.5, 2.5, None, None]
    assert rows[1]["error"].startswith(
        f"Row 2 of {tmp_path / 'a.parquet'} has neither a text nor a number in the field 'name'."
    )
    none = run(tiny_gpt2, *asked, "-i", str(tmp_path / "*.tsv"), code=2).stderr
    assert none == f"Error: No file matches {tmp_path / '*.tsv'}. Check the pattern.\n"
    (tmp_path / "[x].jsonl").write_text('{"q": "the fox", "name": 1}')
    assert len(rows_of(run(tiny_gpt2, *asked, "-i", str(tmp_path / "[x].jsonl")).stdout)) == 1
    named = run(tiny_gpt2, *asked, input='{"q": 3, "name": "n7"}', code=4).stdout
    assert rows_of(named)[0]["error"].startswith('Line 1 of stdin (name "n7") has no text in')


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("rank", "--jsonl", "--prompt", "x"), "--prompt does not go with --jsonl"),
        (("rank", "--choices-field", "c", "a"), "--choices-field goes with --jsonl"),
        (("next", "--ray", "x", "a"), "--ray goes with --jsonl"),
        (("next", "--jsonl", "--actors", "2", "{}"), "--actors goes with --ray"),
        (("next", "--jsonl", "--ray", "local", "{}"), "--ray writes parts into a folder"),
        (("next", "--jsonl", "--ray", "local", "-o", "x", "{}"), "--ray reads files"),
        (
            ("next", "--jsonl", "--ray", "local", "-o", __file__, "-i", "x"),
            "is a file; --ray writes parts into a folder",
        ),
        (("next", "-o", "x", "a"), "--output goes with --jsonl"),
        (("next", "--jsonl", "--keep-newline", "{}"), "--keep-newline does not go with --jsonl"),
        (("score", "--jsonl", "-o", "x", "--top", "3", "{}"), "--top looks at all rows together"),
        (("encode", "-o", "x", "a"), "-o goes with --format, --split or a batch of rows"),
        (("encode", "--jsonl", "--fits", "3", "-o", "x", "{}"), "-o goes with --format, --split"),
        (
            ("encode", "--jsonl", "--format", "bin", "-o", "x", "--resume", "{}"),
            "--resume is for a batch of rows into a file",
        ),
    ],
)
def test_what_is_wrong_with_the_call(tiny_gpt2: Path, args: tuple[str, ...], words: str) -> None:
    assert words in run(tiny_gpt2, *args, code=2).stderr


def test_error_records_of_a_finished_table_are_made_again(tiny_gpt2: Path, tmp_path: Path) -> None:
    """The lines of a table that cannot be appended to are kept as long as there are errors."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.csv"
    source.write_text('{"prompt": "the fox"}\n{"prompt": 3}\n{"prompt": ""}\n')
    asked = ("next", "-n", "1", "--jsonl", "-i", str(source), "-o", str(out))
    run(tiny_gpt2, *asked, code=4)
    lines = tmp_path / "out.csv.partial.jsonl"
    whole = out.read_bytes()
    kept = rows_of(lines.read_text())
    kept[0] = {"prompt": "the fox", "record": 0, "error": "The disk was on fire."}
    lines.write_text("".join(json.dumps(row) + "\n" for row in kept))
    again = run(tiny_gpt2, *asked, "--retry-errors", code=4)
    assert "2 of 3 records are error records" in again.stderr
    assert out.read_bytes() == whole
    run(tiny_gpt2, *asked, "--resume", code=4)
    assert out.read_bytes() == whole


def test_a_finished_table_is_not_made_again(tiny_gpt2: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.csv"
    source.write_text('{"prompt": "the fox"}\n')
    asked = ("encode", "--count", "--jsonl", "-i", str(source), "-o", str(out))
    run(tiny_gpt2, *asked)
    before = out.stat()
    run(tiny_gpt2, *asked, "--resume")
    assert out.stat() == before
    assert not (tmp_path / "out.csv.partial.jsonl").exists()
    other = run(tiny_gpt2, *asked, "--resume", "--special", "allow", code=2).stderr
    assert 'special "text"; this call has "allow"' in other

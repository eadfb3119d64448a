"""The journal of a batch: kill it where you like, and it goes on to the same bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.errors import InvalidInput, StorageError
from llmcli.io import journal as module
from llmcli.io.journal import Journal, Mode

MANIFEST = {"command": "generate", "model": "fable", "sampling": {"temperature": 0.8, "stop": []}}


def lines_of(number: int, count: int) -> bytes:
    """A record's lines; every fifth record is an error record."""
    if number % 5 == 4:
        rows: list[dict[str, Any]] = [{"record": number, "error": "too long"}]
    else:
        rows = [{"record": number, "index": i, "text": "é" * number} for i in range(count)]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def run(journal: Journal, mode: Mode, records: int) -> None:
    with journal.open(mode) as out:
        for number in range(out.done, records):
            out.write(number, lines_of(number, journal.lines))


@pytest.mark.parametrize("count", [1, 3])
def test_resuming_gives_what_one_run_gives(tmp_path: Path, count: int) -> None:
    """Wherever the file was cut: at each of its bytes."""
    whole = Journal(tmp_path / "whole.jsonl", MANIFEST, lines=count)
    run(whole, "new", 12)
    expected = whole.path.read_bytes()
    assert expected == b"".join(lines_of(number, count) for number in range(12))
    torn = Journal(tmp_path / "torn.jsonl", MANIFEST, lines=count)
    for cut in range(len(expected) + 1):
        torn.path.write_bytes(expected[:cut])
        if cut == 0:
            torn.manifest_path.unlink(missing_ok=True)
        run(torn, "resume", 12)
        assert torn.path.read_bytes() == expected


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 200_000), min_size=1, max_size=4), data=st.data())
def test_long_lines(tmp_path: Path, sizes: list[int], data: st.DataObject) -> None:
    """Lines longer than what is read at once."""
    path = tmp_path / "out.jsonl"
    whole = b"".join(
        json.dumps({"record": number, "text": "x" * size}).encode() + b"\n"
        for number, size in enumerate(sizes)
    )
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    journal = Journal(path, MANIFEST)
    journal.manifest_path.write_text(json.dumps(MANIFEST))
    with journal.open("resume") as out:
        assert out.done == whole[:cut].count(b"\n")
    assert path.read_bytes() == whole[: whole.rfind(b"\n", 0, cut) + 1]


def test_an_output_is_not_written_over(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out.jsonl", MANIFEST)
    run(journal, "new", 3)
    before = journal.path.read_bytes()
    with pytest.raises(InvalidInput, match="--resume"):
        journal.open("new")
    assert journal.path.read_bytes() == before
    run(journal, "overwrite", 2)
    assert journal.path.read_bytes() == lines_of(0, 1) + lines_of(1, 1)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({**MANIFEST, "model": "gpt2"}, 'model "fable"; this call has "gpt2"'),
        ({**MANIFEST, "sampling": {"temperature": 1, "stop": []}}, "sampling.temperature 0.8"),
        ({**MANIFEST, "sampling": {"stop": []}}, "sampling.temperature 0.8; this call has none"),
        ({**MANIFEST, "seed": 7}, "seed none; this call has 7"),
    ],
)
def test_resuming_wants_the_same_settings(
    tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    path = tmp_path / "out.jsonl"
    run(Journal(path, MANIFEST), "new", 3)
    before = path.read_bytes()
    with pytest.raises(InvalidInput) as caught:
        Journal(path, changed).open("resume")
    assert named in str(caught.value)
    assert path.read_bytes() == before


def test_an_output_of_somebody_else(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out.jsonl", MANIFEST)
    journal.path.write_text("notes\n")
    with pytest.raises(InvalidInput, match="what made it"):
        journal.open("resume")
    journal.manifest_path.write_text(json.dumps(MANIFEST))
    with pytest.raises(InvalidInput, match="did not write"):
        journal.open("resume")
    assert journal.path.read_text() == "notes\n"
    journal.manifest_path.write_text("{")
    with pytest.raises(InvalidInput, match="cannot be read"):
        journal.open("resume")


def test_row_12_two_runs_on_one_output(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out.jsonl", MANIFEST)
    with journal.open("new") as out:
        out.write(0, lines_of(0, 1))
        for mode in ("resume", "overwrite"):
            with pytest.raises(StorageError, match="Another run"):
                Journal(journal.path, MANIFEST).open(mode)
    assert journal.path.read_bytes() == lines_of(0, 1)
    run(journal, "resume", 2)


def test_a_full_disk_keeps_what_was_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "out.jsonl", MANIFEST)
    with journal.open("new") as out:
        out.write(0, lines_of(0, 1))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    out = journal.open("resume")
    monkeypatch.setattr(module, "_SYNC_SECONDS", 0.0)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        out.write(1, lines_of(1, 1))
    monkeypatch.undo()
    out.close()
    run(journal, "resume", 4)
    assert journal.path.read_bytes() == b"".join(lines_of(number, 1) for number in range(4))


def test_another_format_appears_when_the_batch_is_done(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out.csv", MANIFEST, plain=False)
    run(journal, "new", 3)
    assert not journal.path.exists()
    with pytest.raises(InvalidInput, match="--resume"):
        journal.open("new")
    run(journal, "resume", 4)

    def convert(lines: Iterator[bytes], out: Any) -> None:
        for line in lines:
            out.write(str(json.loads(line)["record"]).encode() + b",")

    journal.convert(convert, keep=True)
    assert journal.path.read_bytes() == b"0,1,2,3,"
    assert not journal.complete
    journal.convert(convert)
    assert journal.path.read_bytes() == b"0,1,2,3,"
    assert journal.complete
    assert not journal.lines_path.exists()


def test_error_records_are_made_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out.jsonl", MANIFEST, lines=2)
    with pytest.raises(InvalidInput, match="is not there"):
        journal.check_same()
    run(journal, "new", 12)
    journal.check_same()
    assert journal.errors() == {4, 9}
    again = json.dumps({"record": 4, "index": 0}).encode() + b"\n"
    with journal.replacing() as out:
        out.write(4, again * 2)
    lines = journal.path.read_bytes()
    assert lines == b"".join(again * 2 if n == 4 else lines_of(n, 2) for n in range(12))
    assert journal.errors() == {9}


def test_a_field_called_error_makes_no_error_record(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out.jsonl", MANIFEST)
    rows: list[dict[str, Any]] = [
        {"error": "of the input", "record": 0, "index": 7},
        {"record": 1, "error": "no text"},
    ]
    with journal.open("new") as out:
        for row in rows:
            out.write(row["record"], json.dumps(row).encode() + b"\n")
    assert journal.errors() == {1}
    with journal.open("resume") as out:
        assert out.done == 2

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.errors import InvalidInput, InvalidText
from llmcli.training.corpus import Document, choose_held_out, expand, read_documents


def test_a_folder_is_read_in_order_and_other_files_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "a.txt", "sub/c.text", "notes.md", "d.bin"):
        (tmp_path / name).write_text(name)
    documents = list(read_documents(expand([str(tmp_path)])))
    assert [document.text for document in documents] == ["a.txt", "b.txt", "sub/c.text"]


def test_jsonl_has_a_document_a_line(tmp_path: Path) -> None:
    path = tmp_path / "tales.jsonl"
    path.write_text('{"text": "one", "id": 7}\n\n{"text": "zwei\\n"}\n{"text": "  "}\n')
    assert list(read_documents([str(path)])) == [
        Document("tales.jsonl:1", "one"),
        Document("tales.jsonl:2", "zwei\n"),
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "Line 2 of"),
        ("[]", "Line 2 of .* has no text in the field"),
        ('{"txt": "x"}', "Line 2 of"),
        ("[" * 100_000, "Line 2 of .* nested too deeply"),
        ('{"text": 3}', "has no text in the field"),
        ('{"text": "\\ud800"}', "lone surrogate"),
    ],
)
def test_a_bad_record_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "tales.jsonl"
    path.write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(InvalidInput, match=says):
        list(read_documents([str(path)]))


def test_tables_and_what_is_compressed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text\n1,one\n2,"two\nlines"\n')
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "three"}\n'))
    found = read_documents([str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl.gz")])
    assert [(document.name, document.text) for document in found] == [
        ("a.csv:1", "one"),
        ("a.csv:2", "two\nlines"),
        ("b.jsonl.gz:1", "three"),
    ]


def test_a_file_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcli.training.corpus._LONGEST", 1 << 22)
    with pytest.raises(InvalidInput, match="/dev/zero is longer than 4 Mi characters"):
        list(read_documents(["/dev/zero"]))


def test_split_on_cuts_files_but_not_records(tmp_path: Path) -> None:
    text, records = tmp_path / "a.txt", tmp_path / "b.jsonl"
    text.write_text("one\n\n\ntwo\n\n\n\n\n\n")
    records.write_text(json.dumps({"text": "three\n\n\nfour"}))
    documents = list(read_documents([str(text), str(records)], split_on="\n\n\n"))
    assert [document.text for document in documents] == ["one", "two", "three\n\n\nfour"]


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO("Käse".encode())))
    assert list(read_documents(expand(["-"]))) == [Document("-", "Käse")]


def test_a_byte_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"abc\xff")
    with pytest.raises(InvalidText, match="byte 0xff at offset 3"):
        list(read_documents([str(path)]))


def test_what_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not exist"):
        expand([str(tmp_path / "missing")])
    with pytest.raises(InvalidInput, match="holds no"):
        expand([str(tmp_path)])
    with pytest.raises(InvalidInput, match="Cannot read"):
        list(read_documents([str(tmp_path / "missing")]))


@given(
    sizes=st.lists(st.integers(1, 10_000), min_size=2, max_size=100),
    fraction=st.floats(0.001, 0.5),
    seed=st.integers(0, 9),
)
def test_held_out_documents(sizes: list[int], fraction: float, seed: int) -> None:
    held = choose_held_out(sizes, fraction, seed=seed)
    assert held == choose_held_out(sizes, fraction, seed=seed)
    assert 1 <= len(held) < len(sizes)
    if len(held) < len(sizes) - 1:
        assert len(held) >= fraction * len(sizes)
        assert sum(sizes[n] for n in held) >= fraction * sum(sizes)


def test_nothing_is_held_out_of_one_document_or_when_not_asked() -> None:
    assert choose_held_out([5], 0.5, seed=0) == frozenset()
    assert choose_held_out([5, 5, 5], 0.0, seed=0) == frozenset()

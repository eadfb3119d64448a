"""Tables in every format: what is written is read again, and what is broken is named."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.errors import InvalidInput, InvalidText
from llmcli.io.formats import (
    Compression,
    Format,
    csv_rows,
    decompressed,
    format_of,
    parquet_rows,
    write_rows,
)
from llmcli.io.records import split_bytes

COMPRESS: dict[Compression, Any] = {"gzip": gzip.compress, "zstd": zstd.compress}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rows.jsonl", Format("jsonl")),
        ("rows", Format("jsonl")),
        ("-", Format("jsonl")),
        ("a.b/rows.CSV.gz", Format("csv", "gzip")),
        ("rows.tsv", Format("tsv")),
        ("rows.jsonl.zst", Format("jsonl", "zstd")),
        ("rows.parquet", Format("parquet")),
    ],
)
def test_the_suffix_tells(name: str, expected: Format) -> None:
    assert format_of(name) == expected
    assert format_of(name, "csv") == Format("csv", expected.compression)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@settings(max_examples=60)
@given(
    members=st.lists(st.binary(max_size=4000), min_size=1, max_size=3),
    size=st.integers(1, 300),
    data=st.data(),
)
def test_compressed_bytes_come_back(
    compression: Compression, members: list[bytes], size: int, data: st.DataObject
) -> None:
    """However they are cut into pieces, and from several files behind one another."""
    packed = b"".join(COMPRESS[compression](member) for member in members)
    pieces = [packed[i : i + size] for i in range(0, len(packed), size)]
    assert b"".join(decompressed(pieces, compression, "x")) == b"".join(members)
    cut = data.draw(st.integers(1, len(COMPRESS[compression](members[-1])) - 1))
    with pytest.raises(InvalidInput, match="cut short"):
        list(decompressed([packed[:-cut]], compression, "x"))


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_bomb_comes_in_pieces(compression: Compression) -> None:
    packed = COMPRESS[compression](bytes(64 << 20))
    assert len(packed) < 1 << 20
    sizes = [len(piece) for piece in decompressed([packed], compression, "x")]
    assert sum(sizes) == 64 << 20
    assert max(sizes) <= 1 << 20


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_what_is_not_compressed(compression: Compression) -> None:
    with pytest.raises(InvalidInput, match=f"rows is not valid {compression}"):
        list(decompressed([b"plain text, and more of it"], compression, "rows"))


def read_csv(data: bytes, name: Any = "csv") -> list[dict[str, Any] | InvalidInput]:
    return list(csv_rows(split_bytes([data], b"\n"), name, "x.csv"))


TEXTS = st.text(st.characters(exclude_characters="\r\0", exclude_categories=["Cs"]), max_size=20)


@given(rows=st.lists(st.tuples(TEXTS, TEXTS), max_size=6), name=st.sampled_from(["csv", "tsv"]))
def test_csv_comes_back(rows: list[tuple[str, str]], name: Any) -> None:
    lines = [json.dumps({"a": a, "b": b}).encode() + b"\n" for a, b in rows]
    out = io.BytesIO()
    write_rows(lines, out, Format(name))
    assert read_csv(out.getvalue() if rows else b"a,b\n", name) == [
        {"a": a, "b": b} for a, b in rows
    ]


def test_a_row_that_is_no_csv_leaves_the_others() -> None:
    rows = read_csv(b'\xef\xbb\xbfid,text\n1,one\n2\n3,\xff\n4,"a\nb"\n5,five\n')
    assert [str(row) if isinstance(row, Exception) else row for row in rows] == [
        {"id": "1", "text": "one"},
        "Line 3 of x.csv has 1 values; the header has 2. Give each row as many.",
        "Line 4 of x.csv is not valid UTF-8: byte 0xff at offset 2. Convert it to UTF-8, "
        "or pass --errors replace.",
        {"id": "4", "text": "a\nb"},
        {"id": "5", "text": "five"},
    ]


def test_headers() -> None:
    with pytest.raises(InvalidInput, match="no header"):
        read_csv(b"")
    with pytest.raises(InvalidInput, match="two columns 'a'"):
        read_csv(b"a,b,a\n1,2,3\n")
    with pytest.raises(InvalidText, match="Line 1"):
        read_csv(b"\xff,b\n")


def test_parquet_keeps_types(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = [
        {"id": i, "p": i / 2, "text": "é", "tags": ["a", None], "at": {"x": i}} for i in range(3000)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert list(parquet_rows(str(path))) == rows


def test_parquet_is_written_from_lines_that_differ(tmp_path: Path) -> None:
    """A column that only some rows have, and numbers that become floats late."""
    rows: list[dict[str, Any]] = [{"record": i, "p": 1} for i in range(1500)]
    rows += [{"record": 1500, "error": "no"}, {"record": 1501, "p": 0.5}]
    lines = tmp_path / "lines"
    lines.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    path = tmp_path / "rows.parquet"
    with open(lines, "rb") as source, open(path, "wb") as out:
        write_rows(source, out, Format("parquet"))
    found = list(parquet_rows(str(path)))
    assert found == [
        {"record": row["record"], "p": row.get("p"), "error": row.get("error")} for row in rows
    ]


def test_what_is_no_parquet(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(InvalidInput, match=r"x\.parquet cannot be read as Parquet"):
        list(parquet_rows(str(path)))


@pytest.mark.parametrize("form", [Format("jsonl", "gzip"), Format("csv", "zstd")])
def test_compressed_output(form: Format) -> None:
    out = io.BytesIO()
    write_rows([b'{"a": "x"}\n', b'{"a": [1]}\n'], out, form)
    plain = b"".join(decompressed([out.getvalue()], form.compression, "x"))
    assert plain == (b'{"a": "x"}\n{"a": [1]}\n' if form.name == "jsonl" else b"a\nx\n[1]\n")

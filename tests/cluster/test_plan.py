"""An input cut into partitions: read one after the other, they are the input read whole."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.cluster.plan import partitions, survey
from llmcli.io import sources as module
from llmcli.io.records import Columns, Record, Source, rows_at_hand
from llmcli.io.remote import matching

COLUMNS = Columns(text="prompt")
LINES = st.sampled_from(
    [b'{"prompt": "a"}', b'{"prompt": 3}', b"", b"  \t", b"no JSON", b'"b"\r', b"\xff\xfe", b"{"]
)


def read(found: list[Source]) -> list[tuple[int, str, object, str | None]]:
    rows: list[Record] = [row for row in rows_at_hand(found, columns=COLUMNS) if row is not None]
    return [(r.number, r.place, r.fields, str(r.error) if r.error else r.text) for r in rows]


def read_in_partitions(found: list[Source], rows: int) -> list[tuple[int, str, object, str | None]]:
    surveys = [survey(source, rows, None) for source in found]
    plan = list(partitions(surveys, rows))
    assert [each.number for each in plan] == list(range(len(plan)))
    made = []
    for each in plan:
        part = read([Source(found[each.index].name, stretch=each.stretch)])
        assert len(part) == each.stretch.count
        made += part
    assert sum(each.records for each in surveys) == len(made)
    return made


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.lists(st.tuples(st.lists(LINES, max_size=12), st.booleans()), max_size=3),
    rows=st.integers(1, 5),
    size=st.integers(1, 40),
)
def test_json_lines_cut_anywhere(
    tmp_path: Path, files: list[tuple[list[bytes], bool]], rows: int, size: int
) -> None:
    """Whatever the bytes, and however few of them are read at once."""
    found = []
    for index, (lines, end) in enumerate(files):
        path = tmp_path / f"{index}.jsonl"
        path.write_bytes(b"\n".join(lines) + (b"\n" if end else b""))
        found.append(Source(str(path)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.read_chunks, "__kwdefaults__", {**_DEFAULTS, "size": size})
        assert read_in_partitions(found, rows) == read(found)


_DEFAULTS = dict(module.read_chunks.__kwdefaults__ or {})


@pytest.mark.parametrize("rows", [1, 3, 4, 100])
def test_parquet_is_entered_at_any_row(tmp_path: Path, rows: int) -> None:
    table = pyarrow.table({"prompt": [f"text {n}" for n in range(11)], "n": range(11)})
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(table, path, row_group_size=4)
    found = [Source(str(path)), Source(f"file://{path}")]
    assert read_in_partitions(found, rows) == read(found)


def test_what_cannot_be_entered_in_the_middle_is_one_partition(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('prompt,n\n"a\nb",1\nc\nd,2\n')
    [found] = [survey(Source(str(path)), 1, None)]
    assert (found.records, found.starts) == (3, [(0, 0)])
    assert read_in_partitions([Source(str(path))], 1) == read([Source(str(path))])


def test_patterns_of_uris_match_as_those_of_files(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl", "b.csv", "deep/er/c.jsonl", "deep/d.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(name))
    base = f"file://{tmp_path}"
    assert matching(f"{base}/[ab].jsonl") == [f"{base}/a.jsonl", f"{base}/b.jsonl"]
    assert matching(f"{base}/*/*.jsonl") == [f"{base}/deep/d.jsonl"]
    assert matching(f"{base}/**/*.jsonl") == [
        f"{base}/{name}" for name in ("a.jsonl", "b.jsonl", "deep/d.jsonl", "deep/er/c.jsonl")
    ]

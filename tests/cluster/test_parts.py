"""Parts made one by one, as actors make them: together they are one machine's output."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmcli.cluster.parts import Job, Parts, count_errors, make_part, stored_manifest
from llmcli.cluster.plan import partitions, survey
from llmcli.errors import InvalidInput
from llmcli.io.batch_run import one_by_one
from llmcli.io.formats import parquet_rows
from llmcli.io.records import Columns, Record, Source
from llmcli.tasks.batch import Verb


def shout(record: Record) -> dict[str, Any]:
    if "bad" in record.text:
        raise InvalidInput("It is bad.", "Be good.")
    return {"text": record.text.upper()}


VERB = Verb(work=one_by_one(shout), made_by={})


@pytest.fixture
def job(tmp_path: Path) -> Job:
    texts = ["one", "two", "bad", "four", "five", "bad", "seven"]
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"id": n, "prompt": text}) + "\n" for n, text in enumerate(texts))
    )
    return Job(
        files=[Source(str(tmp_path / "in.jsonl"), called="in.jsonl")],
        folder=str(tmp_path / "parts"),
        suffix=".jsonl",
        columns=Columns(text="prompt"),
    )


def made(job: Job, rows: int) -> list[int]:
    Parts(job).open({}, goes_on=True, overwrite=False)
    plan = partitions([survey(job.files[0], rows, None)], rows)
    return [make_part(VERB, job, each).failed for each in plan]


@pytest.mark.parametrize("remote", [False, True])
def test_parts_joined_do_not_depend_on_how_many_they_are(job: Job, remote: bool) -> None:
    folder = Path(job.folder)
    if remote:
        job = replace(job, folder=f"file://{folder}")
    joined = set()
    for rows in (1, 3, 50):
        failed = made(job, rows)
        parts = sorted(folder.glob("part-*"))
        assert len(parts) == len(failed) == len(Parts(job).numbers())
        assert sorted(path.name for path in folder.iterdir())[1:] == [path.name for path in parts]
        assert [count_errors(job, number) for number in range(len(parts))] == failed
        assert sum(failed) == 2
        joined.add(b"".join(path.read_bytes() for path in parts))
        Parts(job).open({"now": rows}, goes_on=False, overwrite=True)
        assert not Parts(job).numbers()
        assert stored_manifest(job.folder) == {"now": rows}
    [data] = joined
    rows_made = [json.loads(line) for line in data.splitlines()]
    assert [row["record"] for row in rows_made] == list(range(7))
    assert rows_made[2]["error"] == "Line 3 of in.jsonl: It is bad. Be good."


def test_parts_of_another_format(job: Job) -> None:
    job = replace(job, suffix=".parquet")
    assert made(job, 4) == [1, 1]
    rows = list(parquet_rows(f"{job.folder}/part-00000001.parquet"))
    assert [row["text"] for row in rows] == ["FIVE", None, "SEVEN"]
    assert count_errors(job, 1) == 1


def test_parts_of_another_batch_are_refused(job: Job) -> None:
    parts = Parts(job)
    parts.open({"seed": 1}, goes_on=False, overwrite=False)
    [number] = [make_part(VERB, job, each).number for each in _plan(job)]
    with pytest.raises(InvalidInput, match="has parts already"):
        parts.open({"seed": 1}, goes_on=False, overwrite=False)
    with pytest.raises(InvalidInput, match="seed 1; this call has 2"):
        parts.open({"seed": 2}, goes_on=True, overwrite=False)
    parts.open({"seed": 1}, goes_on=True, overwrite=False)
    assert parts.numbers() == {number}


def _plan(job: Job) -> Any:
    return partitions([survey(job.files[0], 50, None)], 50)

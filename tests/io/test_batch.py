"""Batches keep the order of their input, errors and all, however far ahead records are read."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.errors import BatchHadErrors, InvalidInput
from llmcli.io.batch import Batch, is_error_row
from llmcli.io.records import Columns, Record, Source, records, rows_at_hand


def some_records(bad: list[bool]) -> list[Record]:
    return [
        Record(
            parts=("x",),
            number=number,
            place=f"Line {number + 1}",
            fields={"id": number},
            error=InvalidInput("Not a text.") if wrong else None,
        )
        for number, wrong in enumerate(bad)
    ]


@given(st.lists(st.sampled_from(["good", "bad", "fails"]), max_size=30), st.integers(1, 6))
def test_answers_and_errors_stand_in_the_order_of_the_input(kinds: list[str], ahead: int) -> None:
    written: list[dict[str, Any]] = []
    batch = Batch(written.append)
    found = some_records([kind == "bad" for kind in kinds])
    begun: deque[Record] = deque()

    def finish_one() -> None:
        record = begun.popleft()
        if kinds[record.number] == "fails":
            batch.fail(record, InvalidInput("No."))
        else:
            written.append({"id": record.number})
            batch.done()

    for record in batch.read(found):
        begun.append(record)
        if len(begun) == ahead:
            finish_one()
    while begun:
        finish_one()
    assert [record["id"] for record in written] == list(range(len(kinds)))
    assert [is_error_row(record) for record in written] == [kind != "good" for kind in kinds]
    assert [number for number, record in enumerate(written) if "error" in record] == [
        number for number, kind in enumerate(kinds) if kind != "good"
    ]
    assert (batch.seen, batch.failed) == (len(kinds), len(kinds) - kinds.count("good"))
    if batch.failed:
        with pytest.raises(BatchHadErrors, match=f"{batch.failed} of {batch.seen} records"):
            batch.finish()
    else:
        batch.finish()


@given(st.lists(st.booleans(), min_size=1, max_size=10), st.integers(1, 4))
def test_without_error_records_the_first_error_ends_the_call(bad: list[bool], ahead: int) -> None:
    """But not before the records in front of it are done."""
    batch = Batch(None)
    done: list[int] = []
    begun: deque[Record] = deque()

    def run() -> None:
        for record in batch.read(some_records(bad)):
            begun.append(record)
            if len(begun) == ahead:
                done.append(begun.popleft().number)
                batch.done()
        while begun:
            done.append(begun.popleft().number)
            batch.done()

    if any(bad):
        with pytest.raises(InvalidInput, match="Not a text"):
            run()
        assert done == list(range(bad.index(True)))
    else:
        run()
        assert len(done) == len(bad)


def test_what_is_wrong_with_a_whole_source_ends_the_call() -> None:
    written: list[dict[str, Any]] = []
    batch = Batch(written.append)

    def fail(record: Record) -> None:
        raise InvalidInput("No.")

    with pytest.raises(InvalidInput, match=r"^No\.$"):
        batch.each([Record(place="stdin", single=True)], fail)
    assert not written


def test_an_error_says_where_its_record_stands_once() -> None:
    written: list[dict[str, Any]] = []
    batch = Batch(written.append)
    messages: Iterator[str] = iter(["It is bad.", "Line 2 is bad."])

    def fail(record: Record) -> None:
        raise InvalidInput(next(messages), "Mend it.")

    batch.each(some_records([False, False]), fail)
    assert [record["error"] for record in written] == [
        "Line 1: It is bad. Mend it.",
        "Line 2 is bad. Mend it.",
    ]


@pytest.mark.parametrize("at_hand", [False, True])
def test_numbers_count_records_over_all_sources(tmp_path: Path, at_hand: bool) -> None:
    """Blank lines are none; what is no JSON is one."""
    (tmp_path / "a").write_text('{"prompt": "a"}\n\nnot JSON\n')
    (tmp_path / "b").write_text('\n{"prompt": "b"}')
    found = [Source(str(tmp_path / name)) for name in "ab"]
    read: Iterator[Record | None] = (
        rows_at_hand(found, columns=Columns(text="prompt"))
        if at_hand
        else records(found, kind="jsonl")
    )
    numbered = [(each.number, each.error is None) for each in read if each is not None]
    assert numbered == [(0, True), (1, False), (2, True)]

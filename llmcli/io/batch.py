"""A batch: records in, answers out, in one order, and an error stands where its record stood.

Records may be read ahead of the answers (encoders and models take several at once), so what is
wrong with one is kept until those before it are done. A record's number is its own: which place
it has in the input, whatever was left out or done before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from llmcli.errors import BatchHadErrors, InvalidInput, LlmcliError

ERROR_KEY = b'"error": '
"""Stands in the line of every error record, and in few others."""


class Numbered(Protocol):
    """A record, whatever it holds."""

    @property
    def number(self) -> int:
        """Its place among the records of the input, from 0."""

    @property
    def place(self) -> str:
        """How messages call it."""

    @property
    def fields(self) -> dict[str, Any]:
        """What passes through from the input to the output."""

    @property
    def error(self) -> InvalidInput | None:
        """Why it cannot be worked on."""

    @property
    def single(self) -> bool:
        """Whether it is its whole source: what is wrong with it ends the call."""


R = TypeVar("R", bound=Numbered)
E = TypeVar("E", bound=LlmcliError)


class Batch:
    """Counts records, and puts error records where they belong.

    Args:
        write: Takes an error record; None ends the call with the first error.

    Attributes:
        seen: How many records were read.
        failed: How many of them have an error record.
    """

    def __init__(self, write: Callable[[dict[str, Any]], None] | None) -> None:
        self.seen = 0
        self.failed = 0
        self._write = write
        self._begun = 0
        self._done = 0
        self._waiting: deque[tuple[int, Numbered, LlmcliError]] = deque()

    def read(self, records: Iterable[R]) -> Iterator[R]:
        """Yield the records that can be worked on, of which several may be under way."""
        for record in records:
            if self.begin(record):
                yield record
            elif self._write is None:
                return  # the error is raised when its turn comes

    def begin(self, record: Numbered) -> bool:
        """Count a record; whether it can be worked on."""
        self.seen += 1
        if record.error is not None:
            self.refuse(record, record.error)
            return False
        self._begun += 1
        return True

    @property
    def held_back(self) -> int:
        """How many error records wait for the records before them."""
        return len(self._waiting)

    def refuse(self, record: Numbered, error: LlmcliError) -> None:
        """Say what is wrong with a record that was not begun."""
        if self._begun == self._done:
            self._report(record, error)
        else:
            self._waiting.append((self._begun, record, error))

    def unread(self) -> None:
        """The record read last is not begun after all: it is left out, or refused."""
        self._begun -= 1

    def done(self) -> None:
        """The oldest record under way has its answer."""
        self._done += 1
        while self._waiting and self._waiting[0][0] <= self._done:
            self._report(*self._waiting.popleft()[1:])

    def fail(self, record: Numbered, error: LlmcliError) -> None:
        """The oldest record under way has none, and this is why."""
        self._report(record, error)
        self.done()

    def each(self, records: Iterable[R], work: Callable[[R], None]) -> None:
        """Work on one record after the other; what its own text makes wrong is its error."""
        for record in self.read(records):
            try:
                work(record)
            except InvalidInput as exc:
                if record.single:
                    raise
                self.fail(record, placed(record, exc))
            else:
                self.done()

    def finish(self) -> None:
        """End the batch.

        Raises:
            BatchHadErrors: some of the records are error records.
        """
        if self.failed:
            raise BatchHadErrors(
                f"{self.failed} of {self.seen} records are error records.",
                "Look for the field 'error' in the output.",
            )

    def _report(self, record: Numbered, error: LlmcliError) -> None:
        if self._write is None or record.single:
            raise error
        self.failed += 1
        self._write(error_row(record, error))


def answer_row(record: Numbered, answer: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the output: what the record brought, its number, what was made of it."""
    return {**record.fields, "record": record.number, **answer}


def error_row(record: Numbered, error: LlmcliError) -> dict[str, Any]:
    """An error record. Its last key is "error", which no other row ends in."""
    passed = {name: value for name, value in record.fields.items() if name != "error"}
    return {**passed, "record": record.number, "error": str(placed(record, error))}


def is_error_row(row: dict[str, Any]) -> bool:
    """Whether a row is an error record; a field "error" of the input's own makes it none."""
    return next(reversed(row), None) == "error"


def placed(record: Numbered, error: E) -> E:
    """The same error, with the record's place in front unless it is said already."""
    if record.place in error.message:
        return error
    return type(error)(f"{record.place}: {error.message}", error.cure)

"""The parts of an output: files in a folder, each of which appears when it is whole."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmcli.cluster.plan import Partition
from llmcli.errors import InvalidInput, StorageError
from llmcli.io.batch import is_error_row
from llmcli.io.batch_run import BatchRequest, BatchRun
from llmcli.io.files import atomic_write
from llmcli.io.formats import FormatName, format_of
from llmcli.io.journal import check_same_manifest
from llmcli.io.records import Columns, Source, rows_at_hand
from llmcli.io.remote import is_remote, list_remote, open_remote, put_remote, remove_remote
from llmcli.io.sources import DecodeErrors
from llmcli.tasks.batch import Verb

_MANIFEST = "_llmcli.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every actor knows of a batch, beside its verb.

    Attributes:
        files: The input.
        folder: Where parts go: a folder's name, or a URI.
        suffix: Of the parts, which tells their format.
        columns: Which columns of the input are what.
        errors: What is done with bytes that are not UTF-8.
        form: The input's format, where its suffix does not tell.
    """

    files: Sequence[Source]
    folder: str
    suffix: str
    columns: Columns
    errors: DecodeErrors = "strict"
    form: FormatName | None = None

    def part_name(self, number: int) -> str:
        """The name of a partition's part."""
        return f"part-{number:08}{self.suffix}"

    def place(self, name: str) -> str:
        """Where a file of the folder is."""
        return f"{self.folder.rstrip('/')}/{name}"


@dataclass(frozen=True, slots=True)
class Made:
    """What came of a partition.

    Attributes:
        number: Its place among all partitions.
        records: How many it has.
        failed: How many of them are error records.
        tokens: How many tokens they took.
    """

    number: int
    records: int
    failed: int
    tokens: int


def make_part(verb: Verb, job: Job, partition: Partition) -> Made:
    """Make a partition's part as one machine would make a file of these records alone.

    It is made aside and appears when it is whole. Whoever makes it once more makes the same
    bytes.

    Raises:
        StorageError: it cannot be written.
        InvalidInput: the input cannot be read.
    """
    name = job.part_name(partition.number)
    told = _Told()
    with tempfile.TemporaryDirectory(prefix="llmcli-") as folder:
        made = Path(folder) / name
        request = BatchRequest(
            sources=[replace(job.files[partition.index], stretch=partition.stretch)],
            columns=job.columns,
            errors=job.errors,
            form=job.form,
            output=made,
        )
        run = BatchRun(
            request, {}, lines=verb.lines, show=_nowhere, progress=told, interrupted=_Never()
        )
        run.run(verb.work)
        if is_remote(job.folder):
            put_remote(made, job.place(name))
        else:
            with open(made, "rb") as source, atomic_write(Path(job.place(name))) as out:
                shutil.copyfileobj(source, out, 1 << 20)
    return Made(partition.number, told.records, told.failed, told.tokens)


def count_errors(job: Job, number: int) -> int:
    """How many error records a part has."""
    source = Source(job.place(job.part_name(number)))
    lines = format_of(source.name).name == "jsonl"
    rows = rows_at_hand([source], columns=Columns(text=""))
    fields = (row.fields for row in rows if row is not None)
    return sum(is_error_row(row) if lines else bool(row.get("error")) for row in fields)


class Parts:
    """The folder of a batch's parts.

    Args:
        job: The batch.
    """

    def __init__(self, job: Job) -> None:
        self._job = job

    def open(self, manifest: Mapping[str, Any], *, goes_on: bool, overwrite: bool) -> None:
        """Make the folder ready, or look whether it is of the same batch.

        Raises:
            InvalidInput: parts are there already, or another model, setting or input made them.
            StorageError: the folder cannot be written.
        """
        folder, remote = self._job.folder, is_remote(self._job.folder)
        if not remote:
            try:
                os.makedirs(folder, exist_ok=True)
            except OSError as exc:
                raise StorageError(
                    f"Cannot write {folder}: {exc.strerror}.", "Name another folder."
                ) from exc
        there = self._names()
        if there and not goes_on and not overwrite:
            raise InvalidInput(
                f"{folder} has parts already.", "Pass --resume to go on, or --overwrite."
            )
        place = self._job.place(_MANIFEST)
        if there and goes_on:
            check_same_manifest(folder, self.stored() or None, manifest)
            return
        if overwrite:
            for name in there:
                self._remove(name)
        data = (json.dumps(manifest, ensure_ascii=False, indent=2) + "\n").encode()
        if remote:
            with tempfile.NamedTemporaryFile() as file:
                file.write(data)
                file.flush()
                put_remote(Path(file.name), place)
        else:
            with atomic_write(Path(place)) as out:
                out.write(data)

    def stored(self) -> dict[str, Any]:
        """The manifest that is there; empty where there is none that can be read."""
        return stored_manifest(self._job.folder)

    def numbers(self) -> set[int]:
        """The partitions whose parts are there."""
        names = (re.fullmatch(r"part-(\d+)\..+", name) for name in self._names())
        return {int(match[1]) for match in names if match}

    def _names(self) -> list[str]:
        folder = self._job.folder
        if is_remote(folder):
            names = list_remote(folder)
        else:
            names = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        return sorted(name for name in names if name.startswith("part-"))

    def _remove(self, name: str) -> None:
        place = self._job.place(name)
        if is_remote(place):
            remove_remote(place)
        else:
            os.unlink(place)


def stored_manifest(folder: str) -> dict[str, Any]:
    """The manifest of a folder of parts; empty where there is none that can be read."""
    place = f"{folder.rstrip('/')}/{_MANIFEST}"
    try:
        with open_remote(place) if is_remote(place) else open(place, "rb") as file:
            found = json.loads(file.read())
    except (OSError, ValueError, InvalidInput):
        return {}
    return found if isinstance(found, dict) else {}


class _Told:
    """Counts what a run tells."""

    def __init__(self) -> None:
        self.records = self.failed = self.tokens = 0

    def begin(self, total: int | None, done: int, failed: int = 0) -> None:
        pass

    def note(self, *, tokens: int, failed: int, records: int = 1) -> None:
        self.records += records
        self.failed += failed
        self.tokens += tokens


class _Never:
    """No Ctrl-C comes to an actor."""

    set = False

    def __call__(self) -> bool:
        return False

    def lifted(self) -> AbstractContextManager[None]:
        return nullcontext()


def _nowhere(row: Mapping[str, Any]) -> None:
    pass

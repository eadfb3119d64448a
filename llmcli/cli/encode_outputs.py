"""What ``llmcli encode`` writes besides ids: files of numbers, texts cut short, chunks."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from llmcli.cli.encode_job import EncodeJob
from llmcli.cli.options import existing_parent
from llmcli.errors import InvalidInput
from llmcli.io.records import Record
from llmcli.io.sources import STDIN

if TYPE_CHECKING:
    from llmcli.tokenization.chunks import Chunk

_INDEX = re.compile(r"\{index(?::0?(\d{1,2}))?\}")
_NEWLINES = {"whole": "", "lines": "\n", "null": "\0", "jsonl": "\n"}


def write_ids_file(job: EncodeJob) -> None:
    """The ids of all records, one after the other, as numbers that can be mapped into memory."""
    from llmcli.io.idfile import id_type, write_ids

    file_format = job.settings.format or "bin"
    dtype = id_type(job.tokenizer.vocab_size)
    with _id_file(job) as file:
        count = write_ids(file, _all_ids(job), format=file_format, dtype=dtype)
    job.console.detail(f"{count} ids of type {dtype} written.")
    if job.console.json_output and job.settings.output is not None:
        job.console.record(
            {"output": job.settings.output, "count": count, "dtype": dtype, **job.json_fields()}
        )


def _all_ids(job: EncodeJob) -> Iterator[list[int]]:
    if job.settings.kind == "whole":
        for record in job.records():
            yield from job.id_lists(record)
    else:
        for _, piece in job.encoded():
            yield [*job.front, *piece.ids, *job.back]


class _Stdout:
    """As much of a binary file as `write_ids` needs."""

    def __init__(self, job: EncodeJob) -> None:
        self.write = job.console.write_bytes


def _id_file(job: EncodeJob) -> AbstractContextManager[BinaryIO]:
    output = job.settings.output
    if output is None:
        if job.settings.format == "npy" or job.console.stdout_is_terminal:
            raise InvalidInput(
                f"--format {job.settings.format} cannot go to stdout here.", "Name a file with -o."
            )
        if job.console.json_output:
            raise InvalidInput("--json and ids both want stdout.", "Name a file with -o.")
        return nullcontext(_Stdout(job))  # type: ignore[arg-type]
    from llmcli.io.files import atomic_write

    target = existing_parent(output)
    _check_not_input(job, target)
    return atomic_write(target)


def _check_not_input(job: EncodeJob, target: Path) -> None:
    for source in job.sources:
        named = source.data is None and source.name != STDIN and os.path.exists(source.name)
        if named and target.exists() and os.path.samefile(source.name, target):
            raise InvalidInput(f"{target} is the input.", "Name another file with -o.")


def show_truncated(job: EncodeJob) -> None:
    """The text cut to a number of tokens."""
    from llmcli.tokenization.chunks import beginning, truncate

    settings, console = job.settings, job.console
    limit = settings.max_tokens or 0
    as_json = console.json_output or settings.kind == "jsonl"

    def show(record: Record) -> None:
        if settings.truncate == "tail":
            text = beginning(
                job.tokenizer,
                record.parts,
                limit,
                special=settings.special,
                threads=settings.threads,
            )
        else:
            text = record.held(f"--truncate {settings.truncate}")
        short = truncate(
            job.tokenizer,
            text,
            limit,
            drop=settings.truncate,
            special=settings.special,
            threads=settings.threads,
        )
        if as_json:
            cut = {settings.field: short} if settings.kind == "jsonl" else {"text": short}
            result = {**job.named(record), **record.fields, **cut, "truncated": short != text}
            console.record({**result, **job.json_fields()})
        else:
            console.write(short + _NEWLINES[settings.kind])

    job.each_record(show)
    if console.stdout_is_terminal and settings.kind == "whole" and not as_json:
        console.write_raw("\n")


def show_chunks(job: EncodeJob) -> None:
    """The text in chunks: a JSON record each, or a file each."""
    from llmcli.tokenization.chunks import split

    settings = job.settings
    write = _chunk_writer(job) if settings.output is not None else None
    written = 0

    def show(record: Record) -> None:
        nonlocal written
        chunks = split(
            job.tokenizer,
            record.held("--split"),
            settings.split or 1,
            overlap=settings.overlap,
            boundary=settings.boundary,
            special=settings.special,
            threads=settings.threads,
        )
        for chunk in chunks:
            if write is not None:
                write(written, chunk)
            if write is None or job.console.json_output:
                job.console.record(_chunk_record(job, record, chunk, written))
            written += 1

    job.each_record(show)


def _chunk_record(job: EncodeJob, record: Record, chunk: Chunk, number: int) -> dict[str, Any]:
    fields = {key: value for key, value in record.fields.items() if key != job.settings.field}
    output = job.settings.output
    return {
        **job.named(record),
        **fields,
        "index": chunk.index,
        **({"output": _chunk_name(output, number)} if output is not None else {"text": chunk.text}),
        "count": chunk.count,
        "offsets": (chunk.start, chunk.end),
        "byte_offsets": (chunk.byte_start, chunk.byte_end),
        **job.json_fields(),
    }


def _chunk_name(template: str, index: int) -> str:
    return _INDEX.sub(lambda match: f"{index:0{match[1] or 1}}", template)


def _chunk_writer(job: EncodeJob) -> Callable[[int, Chunk], None]:
    """Write each chunk to the file that ``-o`` names."""
    from llmcli.io.files import atomic_write

    template = job.settings.output or ""
    if not _INDEX.search(template):
        raise InvalidInput(
            f"-o {template} does not say where the chunk's number goes.",
            "Name it such as 'chunk-{index:04}.txt'.",
        )

    def write(index: int, chunk: Chunk) -> None:
        target = existing_parent(_chunk_name(template, index))
        _check_not_input(job, target)
        with atomic_write(target) as file:
            file.write(chunk.text.encode("utf-8"))

    return write

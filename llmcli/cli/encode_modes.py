"""Each thing that ``llmcli encode`` can do with its records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from llmcli.cli.encode_job import EncodeJob, Mode
from llmcli.cli.encode_outputs import show_chunks, show_truncated, write_ids_file
from llmcli.errors import GateFailed
from llmcli.io.records import MAX_DETAILED, MAX_RECORD, Record
from llmcli.terminal.tokens import columns, escaped_token, tinted


def show_ids(job: EncodeJob) -> None:
    """Ids on a line for each record; JSON with everything; tints on a terminal."""
    if job.console.json_output:
        job.each_record(lambda record: job.console.record(_full_record(job, record)))
    elif job.settings.kind != "whole":
        for _, piece in job.encoded():
            job.console.line(" ".join(map(str, [*job.front, *piece.ids, *job.back])))
    elif job.console.stdout_is_terminal:
        job.each_record(lambda record: _show_tinted(job, record))
    else:
        job.each_record(lambda record: _write_line(job, job.id_lists(record)))


def _write_line(job: EncodeJob, lists: Iterable[list[int]]) -> None:
    separator = ""
    for ids in lists:
        if ids:
            job.console.write_raw(separator + " ".join(map(str, ids)))
            separator = " "
    job.console.write_raw("\n")


def _full_record(job: EncodeJob, record: Record) -> dict[str, Any]:
    text = record.held("--json", limit=MAX_DETAILED)
    encoding = job.tokenizer.encode(text, special=job.settings.special)
    before = [(0, 0)] * len(job.front)
    chars, size = len(text), len(text.encode("utf-8"))
    ids = [*job.front, *encoding.ids, *job.back]
    data = [job.tokenizer.token_bytes(token_id) for token_id in ids]
    if not job.exact and job.tokenizer.decode_bytes(encoding.ids) != text.encode("utf-8"):
        job.warn_of_change()
    return {
        **job.named(record),
        **record.fields,
        "ids": ids,
        "tokens": [each.decode("utf-8", "replace") for each in data],
        "bytes": [None if _is_text(each) else each.hex() for each in data],
        "offsets": [*before, *encoding.char_offsets, *[(chars, chars)] * len(job.back)],
        "byte_offsets": [*before, *encoding.byte_offsets, *[(size, size)] * len(job.back)],
        "count": len(ids),
        **job.json_fields(),
    }


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _show_tinted(job: EncodeJob, record: Record) -> None:
    console = job.console
    count = size = 0

    def tokens() -> Iterator[tuple[int, bytes]]:
        nonlocal count, size
        for ids in job.id_lists(record):
            for token_id in ids:
                data = job.tokenizer.token_bytes(token_id)
                count, size = count + 1, size + len(data)
                yield token_id, data

    for shown in tinted(tokens(), color=console.color_stdout, ids=console.verbose):
        console.write_raw(shown)
    console.write_raw("\n" + console.styled(f"{count} tokens, {size} bytes", "2") + "\n")


def show_tokens(job: EncodeJob) -> None:
    """One token a line, escaped; with its id in front under -v."""

    def show(record: Record) -> None:
        for piece in job.pieces(record):
            for token_id in piece.ids:
                label = f"{token_id}\t" if job.console.verbose else ""
                token = escaped_token(job.tokenizer.token_bytes(token_id))
                job.console.write_raw(f"{label}{token}\n")

    if job.console.json_output:
        show_ids(job)
    else:
        job.each_record(show)


def show_count(job: EncodeJob) -> None:
    """The number; a line a file and a total for several, a line a record for a batch."""
    if job.settings.kind != "whole":
        for record, piece in job.encoded():
            _show_number(job, record, piece.count + job.extra)
        return
    total = 0
    for record in job.records():
        count = sum(piece.count for piece in job.pieces(record)) + job.extra
        total += count
        _show_number(job, record, count)
    if len(job.sources) > 1 and not job.console.json_output:
        job.console.line(f"{total} total")


def _show_number(job: EncodeJob, record: Record, count: int) -> None:
    if job.console.json_output:
        fields = {**job.named(record), **record.fields}
        job.console.record({**fields, "count": count, **job.json_fields()})
    elif job.named(record):
        job.console.line(f"{count} {record.name}")
    else:
        job.console.line(str(count))


def check_fits(job: EncodeJob) -> None:
    """Exit 3 unless every text has at most so many tokens; reads no more than it must.

    Raises:
        GateFailed: one has more.
    """
    limit = job.settings.fits or 0
    too_long = ""
    for record in job.records():
        count = job.extra
        for piece in job.pieces(record):
            count += piece.count
            if count > limit and not job.console.json_output:
                break
        if job.console.json_output:
            result = {"count": count, "max_tokens": limit, "fits": count <= limit}
            fields = {**job.named(record), **record.fields}
            job.console.record({**fields, **result, **job.json_fields()})
        if count > limit:
            too_long = too_long or record.place
    if too_long:
        raise GateFailed(
            f"{too_long} has more than {limit} tokens.",
            f"Shorten it, or cut it with --max-tokens {limit}.",
        )


def show_comparison(job: EncodeJob) -> None:
    """Counts and tokens per byte by several tokenizers; the texts are kept in memory."""
    from llmcli.tokenization.large_text import encode_pieces

    texts, room = list[str](), MAX_RECORD
    for record in job.records():
        texts.append(record.held("--compare", limit=room))
        room -= len(texts[-1])
    size = sum(len(text.encode("utf-8")) for text in texts)
    rows = [("model", "tokens", "tokens/byte", "vocabulary")]
    others = [job.load(name) for name in job.settings.compare]
    for tokenizer, model in [(job.tokenizer, job.model), *others]:
        pieces = (
            piece
            for text in texts
            for piece in encode_pieces(
                tokenizer, [text], special=job.settings.special, threads=job.settings.threads
            )
        )
        count = sum(piece.count for piece in pieces)
        rate = count / size if size else 0.0
        rows.append((model.name, str(count), f"{rate:.4f}", str(tokenizer.vocab_size)))
        if job.console.json_output:
            job.console.record(
                {
                    "model": model.name,
                    "revision": model.commit,
                    "count": count,
                    "bytes": size,
                    "tokens_per_byte": rate,
                    "vocab_size": tokenizer.vocab_size,
                }
            )
    if not job.console.json_output:
        job.console.write_raw(columns(rows))


MODES: dict[Mode, Callable[[EncodeJob], None]] = {
    "ids": show_ids,
    "count": show_count,
    "tokens": show_tokens,
    "format": write_ids_file,
    "max_tokens": show_truncated,
    "split": show_chunks,
    "fits": check_fits,
    "compare": show_comparison,
}

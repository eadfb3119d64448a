"""Records encoded, counted or cut: what ``encode`` makes of a batch of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from llmcli._version import __version__
from llmcli.errors import InvalidInput
from llmcli.io.batch_run import Answer, Work, one_by_one
from llmcli.io.records import MAX_DETAILED, Record
from llmcli.tasks.batch import Verb
from llmcli.tasks.encode import Encoder

if TYPE_CHECKING:
    from llmcli.tokenization.chunks import Side


def encode_records(encoder: Encoder) -> Verb:
    """Each record's tokens with all there is to tell of them."""

    def answer(record: Record) -> dict[str, Any]:
        text = record.held("--json", limit=MAX_DETAILED)
        return {**encoder.tokens(text).to_dict(), **encoder.provenance}

    return _verb(encoder, one_by_one(answer, tokens=lambda made: int(made["count"])))


def count_records(encoder: Encoder) -> Verb:
    """How many tokens each record has; records are encoded side by side."""

    def checked(
        records: Iterator[Record | None],
    ) -> Iterator[tuple[tuple[Record, InvalidInput | None], str]]:
        for record in records:
            if record is None:
                continue
            text = record.text
            try:
                encoder.tokenizer.check(text, special=encoder.special)
            except InvalidInput as exc:
                yield (record, exc), ""
            else:
                yield (record, None), text

    def work(records: Iterator[Record | None], should_stop: Callable[[], bool]) -> Iterator[Answer]:
        for (record, error), piece in encoder.side_by_side(checked(records)):
            count = piece.count + encoder.extra
            made = error or {"count": count, **encoder.provenance}
            yield Answer(record=record, made=made, tokens=count)

    return _verb(encoder, work, count=True)


def truncate_records(encoder: Encoder, max_tokens: int, *, drop: Side, field: str) -> Verb:
    """Each record's text cut to so many tokens, in its own ``field``."""

    def answer(record: Record) -> dict[str, Any]:
        short, cut = encoder.truncate(record, max_tokens, drop=drop)
        return {field: short, "truncated": cut, **encoder.provenance}

    return _verb(encoder, one_by_one(answer), max_tokens=max_tokens, truncate=drop)


def _verb(encoder: Encoder, work: Work, **settings: Any) -> Verb:
    return Verb(
        work=work,
        threads=encoder.threads or 1,
        made_by={
            "command": "encode",
            "version": __version__,
            **encoder.provenance,
            "special": encoder.special,
            "front": encoder.front,
            "back": encoder.back,
            **settings,
        },
    )

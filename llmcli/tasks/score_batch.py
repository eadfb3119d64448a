"""Records scored: what ``score`` makes of a batch into a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from llmcli.errors import InvalidInput, InvalidText
from llmcli.io.batch_run import Answer
from llmcli.io.records import Record
from llmcli.tasks.batch import Verb, made_by
from llmcli.tasks.score import Scoring, convention_record, figures, nothing_scored


def score_records(scoring: Scoring) -> Verb:
    """Score each record's text by itself.

    Texts are run together where that changes no bit of a score; otherwise one after the other,
    so that a score depends on its own text alone.

    Raises:
        InvalidInput: a setting is out of range or missing from the convention.
    """
    model, request = scoring.model, scoring.request
    convention = scoring.convention()
    alone = convention.pseudo or model.decoder().rows_alike == 1

    def work(records: Iterator[Record | None], should_stop: Callable[[], bool]) -> Iterator[Answer]:
        texts = (record for record in records if record is not None)
        groups: Iterable[Iterable[Record]] = ([record] for record in texts) if alone else [texts]
        for group in groups:
            scorer = scoring.scorer(convention)
            for (record, error), tally in scorer.run(_checked(group)):
                if error is None and not tally.weight:
                    error = nothing_scored(record.place, tally, convention, prompt=request.prompt)
                if error is not None:
                    yield Answer(record=record, made=error)
                else:
                    score = tally.score(interval=False)
                    yield Answer(record=record, made=figures(score), tokens=score.tokens)

    return Verb(
        work=work,
        threads=model.threads or 1,
        made_by=made_by(
            "score",
            model,
            **convention_record(convention),
            prompt=request.prompt,
            special=request.special,
        ),
    )


def _checked(
    records: Iterable[Record],
) -> Iterator[tuple[tuple[Record, InvalidInput | None], Iterator[str]]]:
    """Records with their texts; with none, and why, where there is something wrong with it."""
    from llmcli.tokenization.stream import check_surrogates

    for record in records:
        try:
            check_surrogates(record.text)
        except InvalidText as exc:
            yield (record, exc), iter(())
        else:
            yield (record, None), iter([record.text])

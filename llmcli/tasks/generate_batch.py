"""Records continued: what ``generate`` makes of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from llmcli.engine.params import SamplingParams, TokenEvent
from llmcli.errors import InvalidInput
from llmcli.io.batch_run import Answer, Work
from llmcli.io.records import Record
from llmcli.tasks.generate import Text, continue_batch
from llmcli.tasks.generate_answer import generate_answer
from llmcli.tasks.statistics import GenerationStats

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel
    from llmcli.tasks.answers import Answers
    from llmcli.tasks.prompt_templates import Wording


def continue_records(
    model: LanguageModel,
    params: SamplingParams,
    stats: GenerationStats,
    *,
    echo: bool = False,
    answers: Answers | None = None,
    wording: Wording | None = None,
    **how: Any,
) -> Work:
    """Continue each record's text, ``num_return_sequences`` times.

    Args:
        model: What continues.
        params: The settings.
        stats: Counts what passes.
        echo: Whether the prompt stands before its continuation.
        answers: How an encoder with a decoder is asked.
        wording: What is made of each text before it is continued.
        how: Further arguments of `continue_batch`.
    """

    def prompt(record: Record) -> str:
        if wording is None or record.error is not None:
            return record.text
        return wording.prompt(record.text, record.fields)

    def texts(records: Iterator[Record | None]) -> Iterator[Text[Record] | None]:
        for record in records:
            if record is None:
                yield None
            else:
                try:
                    text: str | InvalidInput = prompt(record)
                except InvalidInput as exc:
                    text = exc
                yield Text(key=record, number=record.number, text=text)

    def work(records: Iterator[Record | None], should_stop: Callable[[], bool]) -> Iterator[Answer]:
        told = continue_batch(
            model,
            texts(records),
            params,
            should_stop=should_stop,
            draft_stats=stats.draft,
            answers=answers,
            **how,
        )
        collected: list[TokenEvent] = []
        begun, drawn = -1, 0
        for each in told:
            if each.error is not None:
                collected.clear()
                yield Answer(record=each.key, made=each.error)
            if each.event is None:
                continue
            if each.number != begun:
                begun, drawn = each.number, stats.tokens
                stats.prompt_tokens += each.prompt_tokens
            stats.note(each.event)
            collected.append(each.event)
            if each.event.finish_reason is not None:
                shown = prompt(each.key) if answers is None else answers.prefix
                made = generate_answer(
                    model, params, shown, each.prompt_tokens, collected, echo=echo
                ).to_dict()
                yield Answer(
                    record=each.key,
                    made=made,
                    last=each.event.index == params.num_return_sequences - 1,
                    tokens=stats.tokens - drawn,
                    interrupted=each.event.finish_reason == "interrupted",
                )
                collected.clear()

    return work

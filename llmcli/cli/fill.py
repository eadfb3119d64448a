"""``llmcli fill``: what a masked model expects in a gap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llmcli.cli.batch import BatchOptions, batch_options, run_batch
from llmcli.cli.help import command
from llmcli.cli.options import (
    InputOptions,
    input_options,
    load_model,
    model_options,
    output_options,
    refuse_idle,
    reworded,
)
from llmcli.io.prompts import read_prompt
from llmcli.models.kinds import MASKED
from llmcli.models.options import LoadOptions
from llmcli.terminal.console import Console

if TYPE_CHECKING:
    from llmcli.tasks.batch import Verb


@command()
@click.argument("text", nargs=-1)
@click.option(
    "-n",
    "--count",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Number of words to list for each gap.",
)
@click.option("--keep-newline", is_flag=True, help="Keep the newline at the end of stdin.")
@batch_options()
@input_options
@reworded(
    model="Masked model to use, such as google-bert/bert-base-uncased: a Hub id, or a folder."
)
@model_options
@output_options
def fill(
    text: tuple[str, ...],
    count: int,
    keep_newline: bool,
    batch: BatchOptions,
    inputs: InputOptions,
    model: LoadOptions,
    console: Console,
) -> None:
    """List the likeliest words for each [MASK] in a text, with a masked model such as BERT.

    Write [MASK] for a gap, or the model's own mask token. If there are several gaps, each is
    filled by itself, with the others left open.

    \b
    Examples:
      llmcli fill -m google-bert/bert-base-uncased "The [MASK] sat on the mat."
      llmcli fill -m FacebookAI/roberta-base -n 3 --json "Paris is the [MASK] of France."
      llmcli fill -m google-bert/bert-base-uncased --jsonl -i gaps.jsonl -o words.jsonl
    """
    batch.check(inputs)

    if batch.jsonl:
        refuse_idle("does not go with --jsonl", keep_newline="--keep-newline")

        def load(console: Console) -> Verb:
            from llmcli.tasks.fill import fill_records

            return fill_records(load_model(batch.placed(model), console, kinds=MASKED), count=count)

        run_batch(batch, text, inputs, console, load)
        return
    given = read_prompt(
        text, inputs.files, notify=console.notice, errors=inputs.errors, keep_newline=keep_newline
    )
    loaded = load_model(model, console, kinds=MASKED)
    from llmcli.tasks.fill import fill_gaps

    answer = fill_gaps(loaded, given, count=count)

    def show_json() -> None:
        console.record(answer.to_dict())

    def show_table() -> None:
        from llmcli.terminal.fill import fill_tables

        console.render(fill_tables(answer))

    if len(answer.gaps) > 1:
        console.notice(
            f"The text has {len(answer.gaps)} gaps: each is filled by itself, with the others open."
        )
    console.choose(json=show_json, text=show_table)()

"""``llmcli score``: perplexity with a name, an interval, a gate, and a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llmcli.cli.batch import BatchOptions, batch_options, run_batch
from llmcli.cli.help import command
from llmcli.cli.options import (
    InputOptions,
    calibration_option,
    input_options,
    load_model,
    model_options,
    output_options,
)
from llmcli.cli.score_options import ScoreSettings, score_options
from llmcli.cli.server_options import ServerOptions, server_options
from llmcli.io.files import existing_parent
from llmcli.io.records import records, sources, whole_size
from llmcli.io.sources import check_argument
from llmcli.models.options import LoadOptions
from llmcli.tasks.score import Gates, Scoring
from llmcli.terminal.console import Console
from llmcli.terminal.score import ScoreView, show_totals

if TYPE_CHECKING:
    from llmcli.models.calibration_file import FittedTemperature
    from llmcli.tasks.batch import Verb


@command()
@click.argument("text", required=False)
@score_options
@calibration_option
@server_options
@batch_options(
    field="text", jsonl="Read records with a text each: JSON Lines, CSV, TSV or Parquet."
)
@input_options
@model_options
@output_options
def score(
    text: str | None,
    settings: ScoreSettings,
    calibration: FittedTemperature | None,
    server: ServerOptions,
    batch: BatchOptions,
    inputs: InputOptions,
    model: LoadOptions,
    console: Console,
) -> None:
    """Measure how well a model predicts text: perplexity, bits per byte, surprises.

    Give the text as TEXT, in files (-i) or on stdin, of any size. Every byte counts, a final
    newline too. -q prints the perplexity alone. docs/score.md has the formulas.

    \b
    Examples:
      llmcli score -i chapter.txt
      ppl=$(llmcli score -q -i chapter.txt)
      llmcli score --tokens "The fox said to the crow: give me the cheese."
      llmcli score --by line --top 10 -i log.txt
      llmcli score --html surprisal.html -i chapter.txt
      llmcli score --vs distilgpt2 -i chapter.txt
      llmcli score --vs distilgpt2 --html both.html -i chapter.txt
      llmcli score --jsonl -i stories.jsonl -o scores.jsonl
      llmcli score --max-bits-per-byte 1.1 -i chapter.txt || echo "too surprising"
    """
    batch.check(inputs)
    settings.check(batch)
    check_argument(settings.prompt, source="--prompt")
    if batch.output is not None:

        def load(console: Console) -> Verb:
            from llmcli.tasks.score_batch import score_records

            loaded = load_model(
                batch.placed(model), console, kinds=settings.kinds, calibration=calibration
            )
            _keep_memory()
            return score_records(Scoring(model=loaded, request=settings.request()))

        run_batch(batch, () if text is None else (text,), inputs, console, load)
        return
    found = sources(text, inputs.files, notify=console.notice)
    for source in found:
        source.check()
    gates = Gates(max_ppl=settings.max_ppl, max_bits_per_byte=settings.max_bits_per_byte)
    if server.server is not None:
        client = server.client(model, _REMOTE)
        parts = (
            part
            for record in records(found, kind="whole", errors=inputs.errors)
            for part in record.parts
        )
        figures, record = client.score("".join(parts), settings.request())
        show_totals(console, gates, figures, record)
        return
    loaded = load_model(model, console, kinds=settings.kinds, calibration=calibration)
    _keep_memory()
    read = records(
        found,
        kind="jsonl" if batch.jsonl else settings.kind,
        errors=inputs.errors,
        columns=batch.columns,
        asked=batch.input_format,
    )
    view = ScoreView(
        console=console,
        scoring=Scoring(model=loaded, request=settings.request()),
        gates=gates,
        size=whole_size(found),
    )
    if settings.has_rows or batch.jsonl:
        view.rows(read, by=settings.by, jsonl=batch.jsonl, sort=settings.sort, top=settings.top)
        return
    whole = (part for record in read for part in record.parts)
    html = None if settings.html is None else existing_parent(settings.html)
    if settings.compares:
        view.versus(load_model(settings.other(model), console), whole, html=html)
    else:
        view.whole(whole, tokens=settings.tokens, html=html)


# What a server takes of the command's options.
_REMOTE = {"convention", "context", "stride", "bos", "prompt", "max_ppl", "max_bits_per_byte"}


def _keep_memory() -> None:
    from llmcli.system import keep_freed_memory

    keep_freed_memory()

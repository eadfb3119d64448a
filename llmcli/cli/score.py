"""``llmcli score``: perplexity with a name, an interval, a gate, and a picture."""

from __future__ import annotations

import click

from llmcli.cli.options import (
    InputOptions,
    input_options,
    load_model,
    model_options,
    output_options,
    refuse_idle,
)
from llmcli.cli.score_job import ScoreJob
from llmcli.cli.score_modes import score_rows, score_versus, score_whole
from llmcli.cli.score_settings import ScoreSettings, score_options
from llmcli.io.records import sources
from llmcli.io.sources import check_argument
from llmcli.models.options import LoadOptions
from llmcli.terminal.console import Console


@click.command()
@click.argument("text", required=False)
@score_options
@input_options
@model_options
@output_options
def score(
    text: str | None,
    settings: ScoreSettings,
    inputs: InputOptions,
    model: LoadOptions,
    console: Console,
) -> None:
    """Measure how well a model predicts text: perplexity, bits per byte, where it was surprised.

    The text is TEXT, or the files given with -i, or stdin, byte for byte; any size will do.
    -q prints the perplexity alone. docs/score.md has every convention's formula.

    \b
    Examples:
      llmcli score -i chapter.txt
      ppl=$(llmcli score -q -i chapter.txt)
      llmcli score --tokens "The fox said to the crow: give me the cheese."
      llmcli score --by line --top 10 -i log.txt
      llmcli score --html surprisal.html -i chapter.txt
      llmcli score --vs distilgpt2 -i chapter.txt
      llmcli score --max-bits-per-byte 1.1 -i chapter.txt || echo "too surprising"
    """
    if not settings.jsonl:
        refuse_idle("goes with --jsonl", field="--field")
    check_argument(settings.prompt, source="--prompt")
    found = sources(text, inputs.files, notify=console.notice)
    for source in found:
        source.check()
    loaded = load_model(model, console)
    _keep_memory()
    job = ScoreJob(
        console=console,
        settings=settings,
        options=model,
        model=loaded,
        sources=found,
        errors=inputs.errors,
    )
    if settings.compares:
        score_versus(job)
    elif settings.has_rows:
        score_rows(job)
    else:
        score_whole(job)


def _keep_memory() -> None:
    from llmcli.engine.allocator import keep_freed_memory

    keep_freed_memory()

"""``llmcli bench``: how fast models are on this machine."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any, get_args

import click

from llmcli.cli.options import (
    ModelName,
    ModelOptions,
    Precision,
    output_options,
    shared_option,
)
from llmcli.errors import InvalidInput
from llmcli.terminal.console import Console


@click.command()
@click.option(
    "-m",
    "--model",
    "names",
    multiple=True,
    type=ModelName(),
    help="Hub id, folder or bundled name; repeatable.  [default: gpt2]",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(get_args(Precision)),
    help="Of the weights; repeatable.  [default: all four]",
)
@click.option(
    "-r",
    "--repetitions",
    type=click.IntRange(1, 1000),
    default=3,
    show_default=True,
    help="Runs that count.",
)
@click.option(
    "-n",
    "--new-tokens",
    type=click.IntRange(1, 100_000),
    default=128,
    show_default=True,
    help="Tokens to decode, at batch 1 and 8.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated values.")
@shared_option("--offline", is_flag=True, help="Never use the network.")
@shared_option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="Where the model runs.",
)
@shared_option("--threads", type=click.IntRange(1, 4096), help="Processor threads.")
@output_options
def bench(
    names: tuple[str, ...],
    precisions: tuple[Precision, ...],
    repetitions: int,
    new_tokens: int,
    as_csv: bool,
    offline: bool,
    device: str,
    threads: int | None,
    console: Console,
) -> None:
    """Measure prefill, decoding, load time and memory.

    Each model and precision runs in a process of its own. The share of bandwidth is that of the
    speed at which memory could be read if every token read all weights once and did nothing
    else.

    \b
    Examples:
      llmcli bench
      llmcli bench -m gpt2 -m distilgpt2 --precision int8
      llmcli bench -m fable -r 10 --csv > speeds.csv
    """
    from llmcli.cli.bench_job import BenchJob, run_jobs

    if as_csv and console.json_output:
        raise InvalidInput("--csv and --json contradict each other.", "Give one of them.")
    options = ModelOptions(offline=offline)
    resolved = [options.resolve(console, model=name) for name in names or (None,)]
    jobs = [
        BenchJob(
            resolved=each,
            precision=precision,
            device=device,
            threads=threads,
            repetitions=repetitions,
            new_tokens=new_tokens,
        )
        for each in resolved
        for precision in precisions or get_args(Precision)
    ]
    _show(run_jobs(jobs, notify=console.notice), console, as_csv=as_csv)


def _show(records: Iterable[Mapping[str, Any]], console: Console, *, as_csv: bool) -> None:
    if console.json_output:
        for record in records:
            console.record(record)
        return
    collected = list(records)
    if as_csv:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(collected[0]), lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(collected)
        console.write(text.getvalue())
        return
    from llmcli.terminal.bench import bench_setting, bench_table

    console.render(bench_table(collected))
    console.line(bench_setting(collected[0]))

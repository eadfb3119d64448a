"""``llmcli bench``: how fast models are on this machine."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import click

from llmcli.cli.help import command
from llmcli.cli.options import (
    ModelName,
    device_option,
    find_files,
    offline_option,
    output_options,
    threads_option,
)
from llmcli.errors import InvalidInput
from llmcli.models.options import Device, LoadOptions, Precision
from llmcli.terminal.console import Console


@command()
@click.option(
    "-m",
    "--model",
    "names",
    multiple=True,
    type=ModelName(),
    help="Model to measure; repeatable.  [default: gpt2]",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(get_args(Precision)),
    help="Precision to measure; repeatable.  [default: all four]",
)
@click.option(
    "-r",
    "--repetitions",
    type=click.IntRange(1, 1000),
    default=3,
    show_default=True,
    help="Number of runs to measure.",
)
@click.option(
    "-n",
    "--new-tokens",
    type=click.IntRange(1, 100_000),
    default=128,
    show_default=True,
    help="Tokens to decode, at batch sizes 1 and 8.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@offline_option
@device_option
@threads_option
@output_options
def bench(
    names: tuple[str, ...],
    precisions: tuple[Precision, ...],
    repetitions: int,
    new_tokens: int,
    as_csv: bool,
    offline: bool,
    device: Device,
    threads: int | None,
    console: Console,
) -> None:
    """Measure prefill, decoding, load time and memory.

    Each model and precision runs in a process of its own. The share of bandwidth compares the
    speed with that of a token that does nothing but read all weights once.

    \b
    Examples:
      llmcli bench
      llmcli bench -m gpt2 -m distilgpt2 --precision int8
      llmcli bench -m fable -r 10 --csv > speeds.csv
    """
    from llmcli.tasks.bench import BenchJob, run_jobs
    from llmcli.terminal.bench import show_csv, show_json, show_table

    show = console.choose(json=show_json, text=show_csv if as_csv else show_table)
    if as_csv and show is show_json:
        raise InvalidInput("--csv and --json contradict each other.", "Give one of them.")
    options = LoadOptions(offline=offline, device=device, threads=threads)
    resolved = [find_files(options.of(name), console) for name in names or (None,)]
    jobs = [
        BenchJob(
            resolved=each,
            options=replace(options, precision=precision),
            repetitions=repetitions,
            new_tokens=new_tokens,
        )
        for each in resolved
        for precision in precisions or get_args(Precision)
    ]
    show(run_jobs(jobs, notify=console.notice), console)

"""``llmcli log``: generations that were kept, and made again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from llmcli.cli.help import HelpfulGroup, command
from llmcli.cli.options import load_model, model_options, output_options, reworded, said
from llmcli.errors import InvalidInput
from llmcli.io.generation_log import GenerationLog, Logged
from llmcli.io.sources import STDIN, read_text
from llmcli.models.options import LoadOptions
from llmcli.terminal.console import Console
from llmcli.terminal.table import Column, Table


def open_log() -> GenerationLog:
    """The user's log, which may not be there yet."""
    return GenerationLog(Path(click.get_app_dir("llmcli")) / "log.db")


_as_recorded = reworded(
    model="Model to use: a Hub id, a folder, or the bundled fable.  [default: as recorded]",
    precision="Precision of the weights.  [default: as recorded]",
)


@click.group(cls=HelpfulGroup)
def log() -> None:
    """Keep what you generate, search it, and generate it again.

    Logging is off until you run 'llmcli log on'. From then on, each single prompt of 'llmcli
    generate' is kept, with its text and settings, in an SQLite database that only you can read.
    Batches are not logged; they have files of their own.

    \b
    Examples:
      llmcli log on
      llmcli log list
      llmcli log search fox
      llmcli log replay 3
    """


@log.command()
@output_options
def on(console: Console) -> None:
    """Start logging.

    \b
    Examples:
      llmcli log on
    """
    open_log().switch(True)
    console.info(f"Generations are kept in {open_log().path} from now on.")


@log.command()
@output_options
def off(console: Console) -> None:
    """Stop logging, and keep what has been logged.

    \b
    Examples:
      llmcli log off
    """
    open_log().switch(False)
    console.info(f"No more generations are kept; those in {open_log().path} stay.")


@log.command()
@output_options
def path(console: Console) -> None:
    """Print the path of the database.

    \b
    Examples:
      sqlite3 "$(llmcli log path)" 'select prompt, text from generations'
    """
    where = str(open_log().path)
    console.answer({"path": where, "on": open_log().is_on}, lambda: console.line(where))


_count = click.option(
    "-n",
    "--count",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Number of generations to list.",
)


@log.command("list")
@_count
@output_options
def list_latest(count: int, console: Console) -> None:
    """List the latest generations.

    \b
    Examples:
      llmcli log list
      llmcli log list -n 100 --json | jq -r .text
    """
    _write_rows(open_log().latest(count), console)


@log.command()
@click.argument("query")
@_count
@output_options
def search(query: str, count: int, console: Console) -> None:
    """Search prompts and texts: words, "phrases", AND, OR, NOT, prefixes*.

    \b
    Examples:
      llmcli log search fox
      llmcli log search '"once upon" NOT wolf'
    """
    _write_rows(open_log().search(query, count), console)


@log.command()
@click.argument("number", type=int)
@output_options
def show(number: int, console: Console) -> None:
    """Show one generation: its prompt, its text and its settings.

    \b
    Examples:
      llmcli log show 3
      llmcli log show 3 --json | jq .sampling
    """
    found = open_log().get(number)

    def text() -> None:
        record = found.record
        made = f"{record['model']}, {record['precision']}, seed {record['seed']}"
        console.line(f"{found.id}  {found.created}  {made}, ended by {record['finish_reason']}")
        console.line()
        console.line(record["prompt"] + record["text"])

    console.answer(found.to_dict(), text)


@log.command()
@output_options
def export(console: Console) -> None:
    """Print all generations as JSON lines, oldest first.

    \b
    Examples:
      llmcli log export > log.jsonl
    """
    for each in reversed(open_log().latest()):
        console.record(each.to_dict())


@log.command()
@click.argument("number", type=int)
@_as_recorded
@model_options
@output_options
def replay(number: int, model: LoadOptions, console: Console) -> None:
    """Generate again and compare; exit with 3 at the first token that differs.

    Uses the model and precision in the log, unless you name others.

    \b
    Examples:
      llmcli log replay 3
      llmcli log replay 3 --precision int8
    """
    _replay(open_log().get(number).record, model, console)


@command("replay")
@_as_recorded
@model_options
@output_options
def replay_record(model: LoadOptions, console: Console) -> None:
    """Generate again from a log record on stdin, and compare.

    \b
    Examples:
      llmcli log show 3 --json | llmcli replay
      llmcli log show 3 --json | llmcli replay --precision int8
    """
    cure = "Pipe 'llmcli log show ID --json'."
    try:
        record = json.loads(read_text(STDIN))
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"stdin is not JSON: {exc}.", cure) from exc
    if not isinstance(record, dict):
        raise InvalidInput("stdin is no record.", cure)
    _replay(record, model, console)


def _replay(record: dict[str, Any], options: LoadOptions, console: Console) -> None:
    from llmcli.tasks.generation_log import replay as generate_again

    wanted = options
    for name in ("model", "precision"):
        if not said(name) and isinstance(record.get(name), str):
            wanted = replace(wanted, **{name: record[name]})
    model = load_model(wanted, console, kinds=("causal", "encoder-decoder"))
    if record.get("revision") != model.revision:
        console.notice(f"The log's revision of {model.name} is {record.get('revision')}.")
    same = generate_again(model, record)
    console.answer({"same_tokens": same}, lambda: console.line(f"The same {same} tokens."))


def _write_rows(found: list[Logged], console: Console) -> None:
    for each in found:
        console.json_only(each.to_dict())
    if not found:
        console.info("Nothing is in the log. 'llmcli log on' begins to keep generations.")
    elif console.choose(json=False, text=True):
        table = Table(
            Column("ID"),
            Column("CREATED (UTC)", rank=2),
            Column("MODEL", rank=1),
            Column("PROMPT", "cut"),
            Column("TEXT", "cut"),
        )
        for each in found:
            table.add(
                str(each.id),
                each.created.removesuffix("Z").replace("T", " "),
                each.record["model"],
                " ".join(each.record["prompt"].split()),
                " ".join(each.record["text"].split()),
            )
        table.write(console)

"""``llmcli pairs``: which of two sentences a model finds likelier, over many pairs."""

from __future__ import annotations

import click

from llmcli.cli.help import command
from llmcli.cli.options import (
    files,
    load_model,
    model_options,
    output_options,
)
from llmcli.errors import BatchHadErrors, InvalidInput
from llmcli.io.formats import FORMATS, FormatName
from llmcli.io.records import Columns, Record, Source, rows_at_hand
from llmcli.models.options import LoadOptions
from llmcli.terminal.console import Console

# Error records that are told one by one.
_TOLD = 3


@command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", shell_complete=files)
@click.option(
    "--good",
    default="sentence_good",
    show_default=True,
    metavar="FIELD",
    help="Field that holds the sentence that should be likelier.",
)
@click.option(
    "--bad",
    default="sentence_bad",
    show_default=True,
    metavar="FIELD",
    help="Field that holds the other sentence.",
)
@click.option("--by", metavar="FIELD", help="Show a row for each value of this field.")
@click.option(
    "--input-format",
    type=click.Choice(FORMATS),
    help="Format of the files, if their names do not say.",
)
@model_options
@output_options
def pairs(
    files: tuple[str, ...],
    good: str,
    bad: str,
    by: str | None,
    input_format: FormatName | None,
    model: LoadOptions,
    console: Console,
) -> None:
    """Count how often a model finds the good sentence of a pair more likely.

    FILE has a pair in each record (JSON Lines, CSV, TSV or Parquet); '-' is stdin. A sentence's
    likelihood is that of all its tokens, the first one given BOS. -q prints the share alone.

    \b
    Examples:
      llmcli pairs anaphor_gender_agreement.jsonl
      llmcli pairs --by UID blimp/*.jsonl
      llmcli pairs --good sent_less --bad sent_more --by bias_type crows_pairs.csv
    """
    found = [Source(name) for name in files]
    for source in found:
        source.check()
    loaded = load_model(model, console)
    from llmcli.tasks.pairs import compare_pairs
    from llmcli.terminal.progress import count_progress

    told = 0

    def tell(record: Record, error: InvalidInput) -> None:
        nonlocal told
        told += 1
        if told <= _TOLD:
            console.notice(f"{error.message} It is left out.")

    rows = rows_at_hand(found, columns=Columns(text=good), asked=input_format)
    with count_progress(console, "pairs") as show:
        answer = compare_pairs(
            loaded,
            (row for row in rows if row is not None),
            good=good,
            bad=bad,
            by=by,
            on_error=tell,
            on_pair=show,
        )
    record = answer.to_dict()

    def show_json() -> None:
        console.record(record)

    def show_share() -> None:
        console.line(f"{record['share']:.6g}")

    def show_table() -> None:
        from llmcli.terminal.pairs import pairs_table

        console.render(pairs_table(record))

    console.choose(json=show_json, quiet=show_share, text=show_table)()
    if answer.errors:
        total = answer.errors + answer.total.pairs
        raise BatchHadErrors(f"{answer.errors} of {total} records have no pair.", "Mend them.")

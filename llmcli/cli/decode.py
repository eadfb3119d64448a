"""``llmcli decode``: token ids to the exact bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import click

from llmcli.cli.help import command
from llmcli.cli.options import load_tokenizer, output_options, resolve_options
from llmcli.io.batch import Batch
from llmcli.io.id_records import InputFormat, read_records
from llmcli.models.options import LoadOptions
from llmcli.tasks.decode import ByteErrors, Decoder
from llmcli.terminal.console import Console
from llmcli.terminal.decode import decode_view

if TYPE_CHECKING:
    from llmcli.io.idfile import IdType


@command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option(
    "-i",
    "--input",
    "files",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="Read ids from this file; '-' is stdin; repeatable.",
)
@click.option(
    "--format",
    type=click.Choice(get_args(InputFormat)),
    default="auto",
    show_default=True,
    help="Format of the input; auto goes by the file name, then by the first bytes.",
)
@click.option(
    "--dtype",
    type=click.Choice(["uint16", "uint32"]),
    default="uint16",
    show_default=True,
    help="Type of the numbers in a .bin file.",
)
@click.option(
    "--errors",
    type=click.Choice(get_args(ByteErrors)),
    default="keep",
    show_default=True,
    help="What to do with invalid UTF-8: print it as it is, print U+FFFD, or fail.",
)
@click.option("--skip-special", is_flag=True, help="Leave out control tokens.")
@resolve_options
@output_options
def decode(
    ids: tuple[str, ...],
    files: tuple[str, ...],
    format: InputFormat,
    dtype: IdType,
    errors: ByteErrors,
    skip_special: bool,
    model: LoadOptions,
    console: Console,
) -> None:
    """Turn token ids into the bytes they stand for.

    Give the ids as arguments, in files (-i) or on stdin: numbers separated by spaces, commas or
    newlines; JSON (a list, or an object with "ids"); .npy; or raw .bin. The output is bytes, so
    encode | decode gives back what went in. With --json each record becomes a line; without it,
    their bytes follow one another.

    \b
    Examples:
      llmcli decode 15496 11 995
      llmcli encode "Hello, world" | llmcli decode
      llmcli decode -i train.bin | head -c 1000
      llmcli encode --json "Hello" | llmcli decode --json
    """
    records = read_records(ids, files, form=format, dtype=dtype)
    tokenizer, _ = load_tokenizer(model, console)
    decoder = Decoder(tokenizer=tokenizer, errors=errors, skip_special=skip_special)
    batch = Batch(console.choose(json=console.record, text=None))
    batch.each(records, decode_view(console, decoder))
    batch.finish()

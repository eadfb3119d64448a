"""``llmcli encode``: text to token ids, counts, chunks."""

from __future__ import annotations

from typing import Any

import click

from llmcli.cli.encode_job import EncodeJob, EncodeSettings
from llmcli.cli.encode_modes import MODES
from llmcli.cli.options import (
    InputOptions,
    input_options,
    load_tokenizer,
    output_options,
    refuse_idle,
    resolve_options,
)
from llmcli.io.records import sources
from llmcli.models.options import LoadOptions
from llmcli.terminal.console import Console
from llmcli.terminal.progress import download_progress


@click.command()
@click.argument("text", required=False)
@click.option("--count", is_flag=True, help="Only how many tokens; a line a file, and a total.")
@click.option("--tokens", is_flag=True, help="The tokens, escaped, one a line (-v: with ids).")
@click.option(
    "--format",
    type=click.Choice(["npy", "bin"]),
    help="Ids as uint16 (uint32 for large vocabularies), to be mapped into memory.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Where --format writes; with --split a name such as 'chunk-{index:04}.txt'.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=0),
    metavar="N",
    help="Print the text cut to N tokens, never inside a character.",
)
@click.option(
    "--truncate",
    type=click.Choice(["head", "tail", "middle"]),
    default="tail",
    show_default=True,
    help="Which part --max-tokens cuts off.",
)
@click.option(
    "--split", type=click.IntRange(min=1), metavar="N", help="Chunks of at most N tokens, as JSON."
)
@click.option(
    "--overlap",
    type=click.IntRange(min=0),
    default=0,
    metavar="M",
    help="Tokens that a chunk repeats of the one before.",
)
@click.option(
    "--boundary",
    type=click.Choice(["paragraph", "sentence", "word", "token"]),
    default="paragraph",
    show_default=True,
    help="The coarsest place at which --split looks for an end.",
)
@click.option(
    "--fits",
    type=click.IntRange(min=0),
    metavar="N",
    help="Print nothing; exit 0 if the text has at most N tokens, else 3.",
)
@click.option(
    "--compare", multiple=True, metavar="MODEL", help="Count by this tokenizer too; repeatable."
)
@click.option("--lines", is_flag=True, help="Each line is a text of its own.")
@click.option("--null", is_flag=True, help="Texts are separated by NUL bytes.")
@click.option("--jsonl", is_flag=True, help="Each line is a JSON object with a text in it.")
@click.option(
    "--field", default="prompt", show_default=True, help="The text's name in a JSON object."
)
@click.option(
    "--special",
    type=click.Choice(["text", "allow", "forbid"]),
    default="text",
    show_default=True,
    help="What '<|endoftext|>' and its like are in the text.",
)
@click.option(
    "--add-bos/--no-add-bos",
    default=None,
    help="Put the begin-of-text token first. Default: as the model's tokenizer does.",
)
@click.option("--add-eos", is_flag=True, help="Put the end-of-text token last.")
@click.option("--threads", type=click.IntRange(1, 4096), help="Processor threads. Default: all.")
@input_options
@resolve_options
@output_options
def encode(
    text: str | None,
    inputs: InputOptions,
    model: LoadOptions,
    console: Console,
    **settings: Any,
) -> None:
    """Turn text into a model's token ids, byte for byte; or count, cut and split it.

    The text is TEXT, or each file given with -i, or stdin. Any size will do: large input is
    encoded in parts on all cores, with the ids of the whole.

    \b
    Examples:
      llmcli encode "Hello, world"
      llmcli encode --count -i draft.txt -i final.txt
      cat book.txt | llmcli encode --max-tokens 900 | llmcli generate -
      llmcli encode --split 512 --overlap 32 -i book.txt -o 'chunk-{index:04}.txt'
      llmcli encode --format bin -o train.bin --add-eos --jsonl --field text -i corpus.jsonl
      llmcli encode --fits 1024 -i prompt.txt && echo "it fits"
    """
    chosen = EncodeSettings(**settings)
    if chosen.max_tokens is None:
        refuse_idle("goes with --max-tokens", truncate="--truncate")
    if chosen.split is None:
        refuse_idle("goes with --split", overlap="--overlap", boundary="--boundary")
    if not chosen.jsonl:
        refuse_idle("goes with --jsonl", field="--field")
    found = sources(text, inputs.files, notify=console.notice)
    tokenizer, resolved = load_tokenizer(model, console)
    # What is printed while the input is read would run into a bar on the same terminal.
    streams = chosen.mode in ("ids", "tokens") or chosen.kind != "whole"
    job = EncodeJob(
        console=console,
        settings=chosen,
        tokenizer=tokenizer,
        model=resolved,
        sources=found,
        errors=inputs.errors,
        load=lambda name: load_tokenizer(model.of(name), console),
        watch=None
        if streams and console.stdout_is_terminal
        else lambda: download_progress(console),
    )
    MODES[chosen.mode](job)
    job.finish()

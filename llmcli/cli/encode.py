"""``llmcli encode``: text to token ids, counts, chunks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, get_args

import click

from llmcli.cli.batch import BatchOptions, batch_options, run_batch
from llmcli.cli.help import command
from llmcli.cli.options import (
    InputOptions,
    input_options,
    load_tokenizer,
    model_names,
    output_options,
    refuse_idle,
    resolve_options,
)
from llmcli.errors import InvalidInput
from llmcli.io.files import atomic_write, existing_parent
from llmcli.io.records import RecordKind, Source, records, sources
from llmcli.io.sources import STDIN
from llmcli.models.options import LoadOptions
from llmcli.tasks.encode import Encoder, chunk_name
from llmcli.terminal.console import Console
from llmcli.terminal.encode import EncodeView
from llmcli.terminal.progress import download_progress

if TYPE_CHECKING:
    from llmcli.io.idfile import IdFormat
    from llmcli.tasks.batch import Verb
    from llmcli.tokenization.chunks import Boundary, Chunk, Side
    from llmcli.tokenization.tokenizer import SpecialTokens

RowMode = Literal["ids", "count", "tokens", "max_tokens"]
Mode = RowMode | Literal["format", "split", "fits", "compare"]
_BARE = ("tokens", "max_tokens", "split")  # the modes in which nothing is put around a text


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeSettings:
    """What encode alone takes, as it stands on the command line."""

    count: bool
    tokens: bool
    format: IdFormat | None
    max_tokens: int | None
    truncate: Side
    split: int | None
    overlap: int
    boundary: Boundary
    fits: int | None
    compare: tuple[str, ...]
    lines: bool
    null: bool
    special: SpecialTokens
    add_bos: bool | None
    add_eos: bool
    threads: int | None
    batch: BatchOptions

    def __post_init__(self) -> None:
        chosen = [f"--{name.replace('_', '-')}" for name in self._chosen()]
        if len(chosen) > 1:
            raise InvalidInput(f"{' and '.join(chosen)} exclude each other.", "Give one of them.")
        if self.lines + self.null + self.batch.jsonl > 1:
            raise InvalidInput("--lines, --null and --jsonl exclude each other.", "Give one.")
        if self.output is not None and not (self.has_rows or self.mode in ("format", "split")):
            raise InvalidInput(
                "-o goes with --format, --split or a batch of rows (--jsonl).",
                "Redirect stdout instead.",
            )
        if self.overlap and self.split is None:
            raise InvalidInput("--overlap goes with --split.", "Add --split N.")
        if (self.add_bos or self.add_eos) and self.mode in _BARE:
            raise InvalidInput(
                f"--add-bos and --add-eos do not go with {chosen[0]}.", "Leave them out."
            )

    def _chosen(self) -> list[Mode]:
        said: dict[Mode, bool] = {
            "count": self.count,
            "tokens": self.tokens,
            "format": self.format is not None,
            "max_tokens": self.max_tokens is not None,
            "split": self.split is not None,
            "fits": self.fits is not None,
            "compare": bool(self.compare),
        }
        return [mode for mode, chosen in said.items() if chosen]

    @property
    def mode(self) -> Mode:
        """The one thing to do."""
        return next(iter(self._chosen()), "ids")

    @property
    def kind(self) -> RecordKind:
        """What a record is."""
        if self.batch.jsonl:
            return "jsonl"
        return "lines" if self.lines else "null" if self.null else "whole"

    @property
    def output(self) -> str | None:
        """Where to, if not to stdout."""
        return self.batch.output

    @property
    def has_rows(self) -> bool:
        """Whether each record gets one row."""
        return self.batch.jsonl and self.mode in get_args(RowMode)


@command()
@click.argument("text", required=False)
@click.option(
    "--count",
    is_flag=True,
    help="Print the number of tokens: a line for each file, then the total.",
)
@click.option("--tokens", is_flag=True, help="Print one token per line, escaped (-v adds ids).")
@click.option(
    "--format",
    type=click.Choice(["npy", "bin"]),
    help="Write ids as uint16 (uint32 for large vocabularies), ready for memory mapping.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=0),
    metavar="N",
    help="Print the text, cut to N tokens but never inside a character.",
)
@click.option(
    "--truncate",
    type=click.Choice(["head", "tail", "middle"]),
    default="tail",
    show_default=True,
    help="Part that --max-tokens drops.",
)
@click.option(
    "--split",
    type=click.IntRange(min=1),
    metavar="N",
    help="Split the text into chunks of at most N tokens, as JSON.",
)
@click.option(
    "--overlap",
    type=click.IntRange(min=0),
    default=0,
    metavar="M",
    help="With --split: tokens that each chunk repeats from the one before.",
)
@click.option(
    "--boundary",
    type=click.Choice(["paragraph", "sentence", "word", "token"]),
    default="paragraph",
    show_default=True,
    help="Where --split prefers to end a chunk.",
)
@click.option(
    "--fits",
    type=click.IntRange(min=0),
    metavar="N",
    help="Print nothing; exit with 0 if every text has at most N tokens, else with 3.",
)
@click.option(
    "--compare",
    multiple=True,
    metavar="MODEL",
    shell_complete=model_names,
    help="Compare with this model's tokenizer; repeatable.",
)
@click.option("--lines", is_flag=True, help="Treat each line as a text of its own.")
@click.option("--null", is_flag=True, help="Split the input into texts at NUL bytes.")
@batch_options(
    jsonl="Read records with a text each: JSON Lines, CSV, TSV or Parquet.",
    output="File for --format; with --split a name such as 'chunk-{index:04}.txt'; with --jsonl "
    "records are added as they are finished.",
    format_flags=("--input-format",),
)
@click.option(
    "--special",
    type=click.Choice(["text", "allow", "forbid"]),
    default="text",
    show_default=True,
    help="Treat control tokens such as '<|endoftext|>' as text, as tokens (allow), or as an error.",
)
@click.option(
    "--add-bos/--no-add-bos",
    default=None,
    help="Put the begin-of-text token first.  [default: as the tokenizer does]",
)
@click.option("--add-eos", is_flag=True, help="Put the end-of-text token last.")
@click.option("--threads", type=click.IntRange(1, 4096), help="CPU threads.  [default: all]")
@input_options
@resolve_options
@output_options
def encode(
    text: str | None,
    batch: BatchOptions,
    inputs: InputOptions,
    model: LoadOptions,
    console: Console,
    **settings: Any,
) -> None:
    """Turn text into a model's token ids; or count, cut and split it by tokens.

    Give the text as TEXT, in files (-i) or on stdin, of any size. Large input is encoded in parts
    on all cores, and the ids are the same as those of the whole.

    \b
    Examples:
      llmcli encode "Hello, world"
      llmcli encode --count -i draft.txt -i final.txt
      cat book.txt | llmcli encode --max-tokens 900 | llmcli generate -
      llmcli encode --split 512 --overlap 32 -i book.txt -o 'chunk-{index:04}.txt'
      llmcli encode --format bin -o train.bin --add-eos --jsonl --field text -i corpus.jsonl
      llmcli encode --count --jsonl -i prompts.parquet -o counts.parquet
      llmcli encode --fits 1024 -i prompt.txt && echo "it fits"
    """
    chosen = EncodeSettings(**settings, batch=batch)
    if chosen.max_tokens is None:
        refuse_idle("goes with --max-tokens", truncate="--truncate")
    if chosen.split is None:
        refuse_idle("goes with --split", overlap="--overlap", boundary="--boundary")
    batch.check(inputs, own_output=True, rows=chosen.has_rows)

    def load(console: Console) -> Encoder:
        tokenizer, resolved = load_tokenizer(model, console)
        encoder = Encoder(
            tokenizer=tokenizer,
            model=resolved,
            special=chosen.special,
            threads=chosen.threads,
            notify=console.notice,
        )
        if chosen.mode not in _BARE:
            encoder.surround(bos=chosen.add_bos, eos=chosen.add_eos)
        return encoder

    json = console.choose(json=True, text=chosen.mode == "max_tokens")
    if chosen.has_rows and (json or chosen.output is not None):
        _run_batch(chosen, load, text, inputs, console)
        return
    found = sources(text, inputs.files, notify=console.notice)
    encoder = load(console)
    # What is printed while the input is read would run into a bar on the same terminal.
    streams = chosen.mode in ("ids", "tokens") or chosen.kind != "whole"
    quiet = streams and console.stdout_is_terminal
    view = EncodeView(
        console=console,
        encoder=encoder,
        records=records(
            found,
            kind=chosen.kind,
            errors=inputs.errors,
            columns=batch.columns,
            asked=batch.input_format,
            watch=None if quiet else lambda: download_progress(console),
        ),
        kind=chosen.kind,
        named=len(found) > 1 and chosen.kind == "whole",
    )
    others = (encoder.beside(load_tokenizer(model.of(name), console)) for name in chosen.compare)
    _show(view, chosen, found, others)
    view.batch.finish()


def _run_batch(
    chosen: EncodeSettings,
    load_encoder: Callable[[Console], Encoder],
    text: str | None,
    inputs: InputOptions,
    console: Console,
) -> None:
    """A row for each record."""

    def load(console: Console) -> Verb:
        from llmcli.tasks.encode_batch import count_records, encode_records, truncate_records

        encoder = load_encoder(console)
        if chosen.max_tokens is not None:
            return truncate_records(
                encoder, chosen.max_tokens, drop=chosen.truncate, field=chosen.batch.field
            )
        return count_records(encoder) if chosen.count else encode_records(encoder)

    run_batch(chosen.batch, () if text is None else (text,), inputs, console, load)


def _show(
    view: EncodeView, chosen: EncodeSettings, found: list[Source], others: Iterator[Encoder]
) -> None:
    """Do the one thing that was asked for."""
    match chosen.mode:
        case "ids":
            view.ids()
        case "count":
            view.count()
        case "tokens":
            view.tokens()
        case "format":
            _write_ids(view, chosen, found)
        case "max_tokens":
            view.truncated(chosen.max_tokens or 0, drop=chosen.truncate)
        case "split":
            view.chunks(
                chosen.split or 1,
                overlap=chosen.overlap,
                boundary=chosen.boundary,
                field=chosen.batch.field,
                write=None if chosen.output is None else _chunk_writer(chosen.output, found),
            )
        case "fits":
            view.fits(chosen.fits or 0)
        case "compare":
            view.comparison(others)


def _write_ids(view: EncodeView, chosen: EncodeSettings, found: list[Source]) -> None:
    """The ids of all records, one after the other, as numbers that can be mapped into memory."""
    from llmcli.io.idfile import id_type, write_ids

    dtype = id_type(view.encoder.tokenizer.vocab_size)
    with _id_file(view.console, chosen, found) as file:
        count = write_ids(file, view.all_ids(), format=chosen.format or "bin", dtype=dtype)
    view.console.detail(f"{count} ids of type {dtype} written.")
    if chosen.output is not None:
        done = {"output": chosen.output, "count": count, "dtype": dtype}
        view.console.json_only({**done, **view.encoder.provenance})


class _Stdout:
    """As much of a binary file as `write_ids` needs."""

    def __init__(self, console: Console) -> None:
        self.write = console.write_bytes


def _id_file(
    console: Console, chosen: EncodeSettings, found: list[Source]
) -> AbstractContextManager[BinaryIO]:
    if chosen.output is not None:
        return atomic_write(_target(chosen.output, found))
    if chosen.format == "npy" or console.stdout_is_terminal:
        raise InvalidInput(
            f"--format {chosen.format} cannot go to stdout here.", "Name a file with -o."
        )
    if console.choose(json=True, text=False):
        raise InvalidInput("--json and ids both want stdout.", "Name a file with -o.")
    return nullcontext(_Stdout(console))  # type: ignore[arg-type]


def _chunk_writer(template: str, found: list[Source]) -> Callable[[int, Chunk], str]:
    """Write each chunk to the file that ``-o`` names."""
    chunk_name(template, 0)

    def write(index: int, chunk: Chunk) -> str:
        name = chunk_name(template, index)
        with atomic_write(_target(name, found)) as file:
            file.write(chunk.text.encode("utf-8"))
        return name

    return write


def _target(output: str, found: list[Source]) -> Path:
    target = existing_parent(output)
    for source in found:
        named = source.data is None and source.name != STDIN and os.path.exists(source.name)
        if named and target.exists() and os.path.samefile(source.name, target):
            raise InvalidInput(f"{target} is the input.", "Name another file with -o.")
    return target

"""``llmcli decode``: token ids to the exact bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import click

from llmcli.cli.options import load_tokenizer, output_options, resolve_options
from llmcli.errors import BatchHadErrors, InvalidInput, InvalidText
from llmcli.io.id_records import IdRecord, InputFormat, read_records
from llmcli.models.options import LoadOptions
from llmcli.terminal.console import Console

if TYPE_CHECKING:
    from llmcli.io.idfile import IdType
    from llmcli.tokenization.tokenizer import Tokenizer

_AT_ONCE = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSettings:
    """What decode alone takes."""

    files: tuple[str, ...]
    format: InputFormat
    dtype: IdType
    errors: Literal["keep", "replace", "strict"]
    skip_special: bool


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option(
    "-i",
    "--input",
    "files",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="Read ids from a file ('-' is stdin); repeatable.",
)
@click.option(
    "--format",
    type=click.Choice(["auto", "ids", "json", "npy", "bin"]),
    default="auto",
    show_default=True,
    help="What the input is. auto: by the name's end, else by its first bytes.",
)
@click.option(
    "--dtype",
    type=click.Choice(["uint16", "uint32"]),
    default="uint16",
    show_default=True,
    help="The numbers of a .bin file.",
)
@click.option(
    "--errors",
    type=click.Choice(["keep", "replace", "strict"]),
    default="keep",
    show_default=True,
    help="Bytes that are not UTF-8: as they are, U+FFFD, or an error.",
)
@click.option("--skip-special", is_flag=True, help="Leave out control tokens.")
@resolve_options
@output_options
def decode(
    ids: tuple[str, ...],
    model: LoadOptions,
    console: Console,
    **settings: object,
) -> None:
    """Turn token ids into the bytes they stand for.

    Ids stand among the arguments, in files given with -i, or on stdin: numbers separated by
    spaces, commas or newlines; JSON (a list, or an object with "ids"); .npy; raw .bin. The
    output is bytes: encode | decode gives back what went in. With --json each record becomes
    a line; without, their bytes follow one another.

    \b
    Examples:
      llmcli decode 15496 11 995
      llmcli encode "Hello, world" | llmcli decode
      llmcli decode -i train.bin | head -c 1000
      llmcli encode --json "Hello" | llmcli decode --json
    """
    chosen = DecodeSettings(**settings)  # type: ignore[arg-type]
    records = read_records(ids, chosen.files, form=chosen.format, dtype=chosen.dtype)
    tokenizer, _ = load_tokenizer(model, console)
    failed = seen = 0
    for record in records:
        seen += 1
        try:
            _show(tokenizer, record, chosen, console)
        except InvalidInput as exc:
            if not console.json_output or record.single:
                raise
            failed += 1
            console.record({**record.fields, "error": str(exc)})
    if failed:
        raise BatchHadErrors(
            f"{failed} of {seen} records are error records.",
            "Look for the field 'error' in the output.",
        )


def _show(
    tokenizer: Tokenizer, record: IdRecord, settings: DecodeSettings, console: Console
) -> None:
    parts = _decoded(tokenizer, record, skip_special=settings.skip_special)
    if console.json_output:
        data = b"".join(parts)
        text = _text(data, record, settings)
        exact = {} if text.encode("utf-8") == data else {"bytes": data.hex()}
        console.record({**record.fields, "text": text, **exact})
    elif settings.errors == "keep" and not console.stdout_is_terminal:
        for data in parts:
            console.write_bytes(data)
    else:
        _write_text(parts, record, settings, console)


def _write_text(
    parts: Iterator[bytes], record: IdRecord, settings: DecodeSettings, console: Console
) -> None:
    from llmcli.tokenization.stream import StreamDecoder

    strict = settings.errors == "strict"
    decoder = StreamDecoder(errors="strict" if strict else "replace")
    try:
        for data in parts:
            console.write(decoder.push(data))
        console.write(decoder.flush())
    except UnicodeDecodeError as exc:
        raise _not_text(record) from exc
    if console.stdout_is_terminal:
        console.write_raw("\n")


def _text(data: bytes, record: IdRecord, settings: DecodeSettings) -> str:
    try:
        return data.decode("utf-8", "strict" if settings.errors == "strict" else "replace")
    except UnicodeDecodeError as exc:
        raise _not_text(record) from exc


def _not_text(record: IdRecord) -> InvalidText:
    return InvalidText(
        f"{record.place}: the ids do not stand for whole UTF-8 characters.",
        "Pass --errors replace, or --errors keep for the bytes.",
    )


def _decoded(tokenizer: Tokenizer, record: IdRecord, *, skip_special: bool) -> Iterator[bytes]:
    """The record's bytes in parts; an id outside the vocabulary is named with its place."""
    # encode puts it there, and the text that went in did not have it.
    front = tokenizer.bos_id if tokenizer.adds_bos else None
    position = 0
    for part in record.parts:
        for start in range(0, len(part), _AT_ONCE):
            ids = part[start : start + _AT_ONCE]
            added = 1 if not position and len(ids) and ids[0] == front else 0
            try:
                yield tokenizer.decode_bytes(
                    ids[added:], skip_special=skip_special, start=not position
                )
            except InvalidInput as exc:
                at = next(at for at, token_id in enumerate(ids) if token_id not in tokenizer)
                raise InvalidInput(
                    f"{record.place}: token id {ids[at]} at position {position + at} is outside "
                    f"the vocabulary (0 to {tokenizer.vocab_size - 1}).",
                    exc.cure,
                ) from exc
            position += len(ids)

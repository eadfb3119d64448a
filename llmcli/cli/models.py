"""``llmcli models``: what is on this machine, and fetching and deleting it."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import click

from llmcli.cli.help import HelpfulGroup
from llmcli.cli.options import (
    ModelName,
    allow_pickle_option,
    find_files,
    folders,
    offline_option,
    output_options,
    revision_option,
    shared_option,
    suggesting,
    timeout_option,
)
from llmcli.errors import InvalidInput
from llmcli.io.json_line import utc
from llmcli.models.options import LoadOptions
from llmcli.terminal.console import Console
from llmcli.terminal.table import Column, Table

if TYPE_CHECKING:
    from pathlib import Path

    from llmcli.hub.inventory import LocalModel

model_argument = click.argument("model", type=ModelName())


@click.group(cls=HelpfulGroup)
def models() -> None:
    """List, download, describe and delete models.

    \b
    Examples:
      llmcli models list
      llmcli models pull openai-community/gpt2
      llmcli models show gpt2
      llmcli models repair ./checkpoint -o ./model
      llmcli models remove gpt2 --yes
    """


@models.command("list")
@output_options
def list_command(console: Console) -> None:
    """List the bundled models and those in the Hub cache.

    \b
    Examples:
      llmcli models list
      llmcli models list --json | jq -r 'select(.size > 1e9).name'
    """
    from llmcli.hub.inventory import list_models

    found = list_models()
    for model in found:
        console.json_only(_entry(model))
    if not found:
        console.info("No models are here. llmcli models pull NAME fetches one.")
    elif console.choose(json=False, text=True):
        table = Table(
            Column("NAME", "wrapped"),
            Column("SIZE"),
            Column("REVISION", rank=3),
            Column("LAST USED", rank=2),
            Column("STATE", rank=1),
        )
        for model in found:
            table.add(*_row(model))
        table.write(console)


@models.command()
@model_argument
@revision_option
@shared_option(
    "--refresh",
    is_flag=True,
    help="Check the Hub for a newer version, and verify the cached files.",
)
@timeout_option
@offline_option
@allow_pickle_option
@shared_option("--trust-remote-code", is_flag=True, help="Fetch the model's Python code, too.")
@output_options
def pull(model: str, console: Console, **options: Any) -> None:
    """Download MODEL from the Hub into the cache, and print its folder.

    An interrupted download carries on where it stopped. Every file is verified.

    \b
    Examples:
      llmcli models pull gpt2
      llmcli models pull org/name@v1.0
      llmcli models pull gpt2 --refresh
    """
    found = find_files(LoadOptions(model=model, **options), console)
    folder = found.adapter or found.folder
    record = {"name": found.name, "origin": found.origin, "revision": found.commit}
    console.answer({**record, "folder": str(folder)}, lambda: _write_path(console, folder))


@models.command()
@model_argument
@revision_option
@output_options
def show(model: str, revision: str | None, console: Console) -> None:
    """Describe MODEL: architecture, parameters, context, vocabulary, files, licence.

    \b
    Examples:
      llmcli models show gpt2
      llmcli models show ./my-model --json | jq .parameters
    """
    from llmcli.hub.resolve import find_local
    from llmcli.models.describe import describe_folder

    with suggesting(model):
        found = find_local(model, revision=revision, notify=console.notice)
    description = describe_folder(found)
    console.answer(description, lambda: _write_description(console, description))


@models.command()
@model_argument
@revision_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
@output_options
def remove(model: str, revision: str | None, yes: bool, console: Console) -> None:
    """Delete MODEL, or one revision of it, from the Hub cache, with all files derived from it.

    \b
    Examples:
      llmcli models remove gpt2
      llmcli models remove org/name --revision v1.0 --yes
    """
    from llmcli.hub.inventory import cached_size, cached_snapshots, remove_cached
    from llmcli.hub.reference import bundled_models, parse_reference
    from llmcli.models.adapter import remove_merged
    from llmcli.models.prepared import remove_prepared

    reference = parse_reference(model, revision)
    if reference.name in bundled_models() or not reference.is_hub_id:
        raise InvalidInput(f"{model} is not in the Hub cache.", "Only cached models are removed.")
    size = _human_size(cached_size(reference))
    if not yes:
        if not sys.stdin or not sys.stdin.isatty():
            raise InvalidInput("Nobody is there to be asked.", "Give --yes to delete it.")
        click.confirm(f"Delete {model} ({size})?", abort=True, err=True)
    folders = cached_snapshots(reference)
    freed = remove_merged(folders) + remove_prepared(folders) + remove_cached(reference)
    console.answer(
        {"name": reference.name, "revision": reference.revision, "freed": freed},
        lambda: console.info(f"Deleted {model}: {_human_size(freed)} are free again."),
    )


@models.command()
@model_argument
@output_options
@click.pass_context
def default(ctx: click.Context, model: str, console: Console) -> None:
    """Make MODEL the default for all commands.

    \b
    Examples:
      llmcli models default fable
      llmcli models default ./my-model
    """
    from pathlib import Path

    from llmcli.cli.settings import config_path, write_setting
    from llmcli.hub.reference import parse_reference

    if parse_reference(model).is_path:
        model = str(Path(model).absolute())
    write_setting(cast("click.Group", ctx.find_root().command), "model", model)
    console.info(f"{model} is the default model now ({config_path()}).")


@models.command()
@click.argument("folder", type=click.Path(), shell_complete=folders)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(),
    shell_complete=folders,
    metavar="DIR",
    help="Folder to write the copy to.",
)
@allow_pickle_option
@output_options
def repair(folder: str, output: str, allow_pickle: bool, console: Console) -> None:
    """Write a clean copy of the model in FOLDER, which any program can load.

    Repairs the names that torch.compile and DataParallel leave, gamma and beta of old
    checkpoints, stray tables, tied heads, mixed types, shards with or without an index, pickled
    weights, and tokenizers in pairs of files. The copy has one file of weights under the usual
    names, and tokenizer.json. It is loaded once to check it before it appears.

    \b
    Examples:
      llmcli models repair ./checkpoint -o ./model
      llmcli models repair ./old -o ./new --allow-pickle
    """
    from pathlib import Path

    from llmcli.models.repair import repair as make_clean

    done = make_clean(Path(folder), Path(output), allow_pickle=allow_pickle)
    if console.choose(json=False, text=True):
        for change in done.changes or ["nothing had to be changed"]:
            console.info(change)
    record = {"folder": str(done.folder), "changes": done.changes}
    console.answer(record, lambda: _write_path(console, done.folder))


@models.command()
@model_argument
@revision_option
@output_options
def path(model: str, revision: str | None, console: Console) -> None:
    """Print the folder that holds MODEL; exit 1 if it is not on this machine.

    \b
    Examples:
      llmcli models path gpt2
      du -shL "$(llmcli models path gpt2)"
    """
    from llmcli.hub.resolve import find_local

    with suggesting(model):
        found = find_local(model, revision=revision, notify=console.notice)
    record = {"name": found.name, "folder": str(found.folder)}
    console.answer(record, lambda: _write_path(console, found.folder))


def _write_path(console: Console, folder: Path) -> None:
    """A path's exact bytes for a pipe, an escaped line for a terminal."""
    if console.stdout_is_terminal:
        console.line(str(folder))
    else:
        console.write_bytes(os.fsencode(folder) + b"\n")


def _write_description(console: Console, description: dict[str, Any]) -> None:
    facts = Table(Column(), Column("", "wrapped"), header=False)
    for name, value in description.items():
        if name != "files" and (shown := _shown(name, value)):
            facts.add(name.replace("_", " "), shown)
    files = Table(Column("", "wrapped"), Column(), header=False)
    for name, size in description["files"].items():
        files.add(name, _human_size(size))
    facts.write(console)
    console.line()
    files.write(console)


def _entry(model: LocalModel) -> dict[str, Any]:
    """A model, ready for JSON."""
    used = None if model.last_used is None else utc(model.last_used)
    return {**asdict(model), "folder": str(model.folder), "last_used": used}


def _row(model: LocalModel) -> tuple[str, ...]:
    used = datetime.fromtimestamp(model.last_used) if model.last_used is not None else None
    references = ", ".join(model.references)
    revision = f"{(model.revision or '')[:12]} {f'({references})' if references else ''}".strip()
    state = model.origin if model.complete else "incomplete"
    return (
        model.name,
        _human_size(model.size),
        revision or "-",
        f"{used:%Y-%m-%d %H:%M}" if used else "-",
        "cached" if state == "hub" else state,
    )


def _shown(name: str, value: object) -> str:
    if name in ("size", "prepared") and isinstance(value, int):
        return _human_size(value) if value else ""
    if value is None or isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:,}" if isinstance(value, int) else str(value)


def _human_size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"

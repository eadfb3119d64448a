"""``llmcli help`` and ``llmcli man``: the help of a command, on the terminal and as man pages."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from llmcli._version import __version__
from llmcli.cli.help import command, command_names, sections, told
from llmcli.cli.options import folders, output_options
from llmcli.errors import InvalidInput
from llmcli.io.files import atomic_write
from llmcli.terminal.console import Console

_FOLDER = "~/.local/share/man/man1"


@command("help")
@click.argument("name", nargs=-1, metavar="[COMMAND]...", shell_complete=command_names)
@click.pass_context
def help_command(ctx: click.Context, name: tuple[str, ...]) -> None:
    """Show the help of a command.

    \b
    Examples:
      llmcli help generate
      llmcli help models pull
    """
    Console().write_raw(f"{_context(ctx.find_root(), name).get_help()}\n")


@command()
@click.argument("name", nargs=-1, metavar="[COMMAND]...", shell_complete=command_names)
@click.option("--install", is_flag=True, help="Install the man pages of all commands.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    shell_complete=folders,
    default=_FOLDER,
    show_default=True,
    metavar="DIR",
    help="With --install: folder for the pages.",
)
@output_options
@click.pass_context
def man(
    ctx: click.Context, name: tuple[str, ...], install: bool, folder: Path, console: Console
) -> None:
    """Print the man page of a command, or install those of all commands.

    \b
    Examples:
      llmcli man generate | man -l -
      llmcli man --install && man llmcli-generate
    """
    root = ctx.find_root()
    if not install:
        console.write_raw(man_page(_context(root, name)))
        return
    folder = folder.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    for each in contexts(root):
        page = each.command_path.replace(" ", "-")
        with atomic_write(folder / f"{page}.1") as out:
            out.write(man_page(each).encode())
    console.info(f"The pages are in {folder}.")


def _context(root: click.Context, names: Sequence[str]) -> click.Context:
    """The context of a command, for its help.

    Raises:
        InvalidInput: there is no such command.
    """
    context = root
    for name in names:
        group = context.command
        found = group.get_command(context, name) if isinstance(group, click.Group) else None
        if found is None:
            raise InvalidInput(
                f"There is no command {' '.join(names)}.", f"See '{context.command_path} --help'."
            )
        context = click.Context(found, info_name=name, parent=context)
    return context


def contexts(context: click.Context) -> Iterator[click.Context]:
    """A command and all below it."""
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            yield from contexts(_context(context, [name]))


def man_page(ctx: click.Context) -> str:
    """A command's man page, in the markup of man(7)."""
    command = ctx.command
    title = ctx.command_path.replace(" ", "-")
    day = datetime.date.today().isoformat()
    text = re.sub(r"\n\s*\x08\n", "\n\n", command.help or "")
    paragraphs = [each for each in re.split(r"\n\s*\n", text.strip()) if each.strip()]
    lines = [
        f'.TH {title.upper()} 1 {day} "llmcli {__version__}" "llmcli"',
        ".SH NAME",
        rf"{title} \- {_escaped(command.get_short_help_str(limit=10_000))}",
        ".SH SYNOPSIS",
        f".B {ctx.command_path}",
        _escaped(" ".join(command.collect_usage_pieces(ctx))),
        ".SH DESCRIPTION",
    ]
    for paragraph in paragraphs:
        first, *rest = paragraph.splitlines()
        if first.strip() == "Examples:":
            lines += [".SH EXAMPLES", ".nf", *(_escaped(line.strip()) for line in rest), ".fi"]
        else:
            lines += [".PP", _escaped(" ".join(paragraph.split()))]
    for heading, options in sections(command.get_params(ctx)):
        lines.append(f".SH {heading.upper()}")
        for option in options:
            names, text = told(option, ctx)
            lines += [".TP", rf"\fB{_escaped(names)}\fR", _escaped(text)]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for name in command.list_commands(ctx):
            inner = _context(ctx, [name]).command
            lines += [".TP", rf"\fB{name}\fR", _escaped(inner.get_short_help_str(limit=10_000))]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Text of which nothing is markup."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{text}" if text.startswith((".", "'")) else text

"""``llmcli config``: what is set, where, and setting it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import click
from click.shell_completion import CompletionItem

from llmcli.cli.help import HelpfulGroup, command_names
from llmcli.cli.options import SharedOption, flag_name, output_options
from llmcli.cli.settings import Place, config_path, find_option, read_file, write_setting
from llmcli.errors import InvalidInput
from llmcli.terminal.console import Console
from llmcli.terminal.table import Column, Table


@click.group(cls=HelpfulGroup)
def config() -> None:
    """Show and change settings.

    \b
    Examples:
      llmcli config show
      llmcli config show generate
      llmcli config set model distilgpt2
      llmcli config set generate.temperature 0.7
      llmcli config set aliases.small HuggingFaceTB/SmolLM2-135M
    """


def _keys(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Shared options, or those of a command whose name and dot are there."""
    commands = _root(ctx).commands
    table, dot, _ = incomplete.rpartition(".")
    keys = {
        f"{table}{dot}{flag_name(each).replace('_', '-')}": each.help
        for each in (_options(commands[table or "generate"]) if table in ("", *commands) else [])
        if dot or isinstance(each, SharedOption)
    }
    return [CompletionItem(key, help=keys[key]) for key in keys if key.startswith(incomplete)]


@config.command()
@output_options
def path(console: Console) -> None:
    """Print the path of the config file, whether or not it exists.

    \b
    Examples:
      cat "$(llmcli config path)"
    """
    where = str(config_path())
    console.answer({"path": where}, lambda: console.line(where))


@config.command()
@click.argument("command", required=False, shell_complete=command_names)
@output_options
@click.pass_context
def show(ctx: click.Context, command: str | None, console: Console) -> None:
    """Show the settings in force, and where each comes from.

    Without COMMAND, show the options that all commands share, and any others that are set.

    \b
    Examples:
      llmcli config show
      llmcli config show score --json | jq -r 'select(.source != "default").option'
    """
    root = _root(ctx)
    if command is not None and command not in root.commands:
        raise InvalidInput(f"There is no command {command}.", "See 'llmcli --help'.")
    rows = list(_in_force(root, command))
    for row in rows:
        console.json_only(row.to_dict())
    if console.choose(json=False, text=True):
        table = Table(
            Column("OPTION", "wrapped"), Column("VALUE", "wrapped"), Column("FROM", "wrapped")
        )
        for row in rows:
            table.add(row.option, _shown(row.value), row.source)
        table.write(console)


@config.command("set")
@click.argument("key", shell_complete=_keys)
@click.argument("value")
@output_options
@click.pass_context
def set_value(ctx: click.Context, key: str, value: str, console: Console) -> None:
    """Write a setting to the config file; KEY is OPTION, COMMAND.OPTION or aliases.NAME.

    \b
    Examples:
      llmcli config set precision int8
      llmcli config set generate.max-new-tokens 200
    """
    written = write_setting(_root(ctx), key, value)
    console.info(f"{written} stands in {config_path()}.")


@config.command()
@click.argument("key", shell_complete=_keys)
@output_options
@click.pass_context
def unset(ctx: click.Context, key: str, console: Console) -> None:
    """Remove a setting from the config file.

    \b
    Examples:
      llmcli config unset generate.temperature
    """
    write_setting(_root(ctx), key, None)
    console.info(f"{key} is out of {config_path()}.")


@config.command()
@output_options
def edit(console: Console) -> None:
    """Open the config file in $VISUAL or $EDITOR.

    \b
    Examples:
      EDITOR=nano llmcli config edit
    """
    where = config_path()
    where.parent.mkdir(parents=True, exist_ok=True)
    click.edit(filename=str(where))
    read_file(where)


@dataclass(frozen=True, slots=True)
class _InForce:
    option: str
    value: Any
    source: str

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"option": self.option, "value": self.value, "source": self.source}


def _root(ctx: click.Context) -> click.Group:
    return cast("click.Group", ctx.find_root().command)


def _in_force(root: click.Group, command: str | None) -> Iterator[_InForce]:
    settings = read_file(config_path())
    if command is not None:
        for param in _options(root.commands[command]):
            yield _value(param, command, settings)
        return
    shared: dict[str, click.Option] = {}
    for each in root.commands.values():
        for param in _options(each):
            if isinstance(param, SharedOption):
                shared.setdefault(flag_name(param), param)
    for param in shared.values():
        yield _value(param, None, settings)
    for name, each in root.commands.items():
        for param in _options(each):
            found = _value(param, name, settings)
            general = flag_name(param) in shared and found == _value(param, None, settings)
            if found.source != "default" and not general:
                yield _InForce(f"{name}.{found.option}", found.value, found.source)
    for alias, model in settings.get("aliases", {}).items():
        yield _InForce(f"aliases.{alias}", model, str(config_path()))


def _options(command: click.Command) -> list[click.Option]:
    return [each for each in command.params if isinstance(each, click.Option) and not each.hidden]


def _value(param: click.Option, command: str | None, settings: dict[str, Any]) -> _InForce:
    """What a command's option is where the command line says nothing."""
    name = flag_name(param)
    variables = [f"LLMCLI_{name.upper()}"] if isinstance(param, SharedOption) else []
    if command is not None and isinstance(param.envvar, str):
        variables.insert(0, param.envvar)
    for variable in variables:
        if os.environ.get(variable):
            return _InForce(name.replace("_", "-"), os.environ[variable], variable)
    places = [Place(None, name)] if command is None else [Place(command, name), Place(None, name)]
    for place in places:
        found = find_option(settings, place)
        if found is not None:
            return _InForce(name.replace("_", "-"), found, str(config_path()))
    default = param.default
    return _InForce(name.replace("_", "-"), default if _is_plain(default) else None, "default")


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)

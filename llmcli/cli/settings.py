"""The config file: TOML in the user's configuration folder, as Click's default_map."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from llmcli.cli.options import flag_name
from llmcli.errors import InvalidInput
from llmcli.io.files import atomic_write

# What the environment tells us that is no option.
_NO_OPTION = {"LLMCLI_CONFIG", "LLMCLI_DEBUG", "LLMCLI_NATIVE", "LLMCLI_COMPLETE"}


def config_path() -> Path:
    """Where the config file is: ``$LLMCLI_CONFIG``, else ``config.toml`` in the app folder."""
    named = os.environ.get("LLMCLI_CONFIG")
    return Path(named) if named else Path(click.get_app_dir("llmcli")) / "config.toml"


def load_settings(group: click.Group, called: str | None) -> dict[str, Any]:
    """Read the config file into a default_map: top-level keys for all commands, then tables.

    Args:
        group: The root.
        called: The command that is to run. Others are imported only where the file has a table
            of theirs, or a key that this one does not know.

    Raises:
        InvalidInput: the file is not TOML, or names a command or an option that does not exist.
    """
    path = config_path()
    return _default_map(group, read_file(path), path, called)


def read_file(path: Path) -> dict[str, Any]:
    """Return what the config file holds; nothing where there is none.

    Raises:
        InvalidInput: it cannot be read, or is not TOML.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as exc:
        raise InvalidInput(
            f"Cannot read {path}: {exc.strerror}.", "Check its permissions."
        ) from exc
    import tomllib  # only where there is a file: start-up counts

    try:
        return tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise InvalidInput(f"{path} is not valid TOML: {exc}.", "Correct the file.") from exc


@dataclass(frozen=True, slots=True)
class Place:
    """Where a setting stands in the file: a key of a command's table, or of the top level."""

    command: str | None
    key: str


def find_option(settings: Mapping[str, Any], place: Place) -> Any:
    """Return a setting, None where it is not there; ``-`` and ``_`` are one."""
    table = settings if place.command is None else settings.get(place.command, {})
    values = {_key(key): value for key, value in table.items() if not isinstance(value, dict)}
    return values.get(place.key)


def where_set(command: str | None, key: str) -> str:
    """Say in which line of the file a command's option is set."""
    path = config_path()
    lines: dict[Place, int] = {}
    table: str | None = None
    with path.open(encoding="utf-8") as text:
        for number, line in enumerate(text, 1):
            if heading := re.match(r"\s*\[([^\]]+)\]", line):
                table = heading[1].strip()
            elif found := re.match(r"\s*[\"']?([\w-]+)[\"']?\s*=", line):
                lines.setdefault(Place(table, _key(found[1])), number)
    place = lines.get(Place(command, key)) or lines.get(Place(None, key))
    return f"{path}, line {place}" if place else str(path)


def write_setting(group: click.Group, key: str, text: str | None) -> str:
    """Write a setting into the file, whose comments stay, or take it out.

    Args:
        group: The root, whose commands have the options.
        key: An option, ``COMMAND.OPTION`` or ``aliases.NAME``.
        text: Its value as on the command line; None takes it out.

    Returns:
        The setting as the file has it now.

    Raises:
        InvalidInput: there is no such option, or the value is not one of its values.
    """
    import tomlkit

    path = config_path()
    read_file(path)
    table, _, name = key.rpartition(".")
    value = None if text is None else _checked(group, table, name, text)
    document = tomlkit.parse(path.read_text(encoding="utf-8") if path.exists() else "")
    holder: Any = document
    if table and table not in document:
        document.add(table, tomlkit.table())
    if table:
        holder = document[table]
    there = next((each for each in holder if _key(each) == _key(name)), name)
    if value is not None:
        holder[there] = value
    elif there in holder:
        del holder[there]
    else:
        raise InvalidInput(f"{key} is not set in {path}.", "See 'llmcli config show'.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as out:
        out.write(tomlkit.dumps(document).encode())
    return f"{key} = {tomlkit.item(value).as_string()}" if value is not None else key


def _checked(group: click.Group, table: str, name: str, text: str) -> Any:
    """The value of a setting, of the type that TOML has for it."""
    if table == "aliases":
        return text
    commands = [group.commands[table]] if table in group.commands else []
    if not table:
        commands = list(group.commands.values())
    params = [
        param
        for command in commands
        for param in command.params
        if isinstance(param, click.Option) and flag_name(param) == _key(name)
    ]
    if not params:
        known = {flag_name(p) for c in commands for p in c.params if isinstance(p, click.Option)}
        raise InvalidInput(
            f"There is no option {table + '.' if table else ''}{name}{_near(_key(name), known)}",
            "See 'llmcli COMMAND --help' for the names.",
        )
    param = params[0]
    try:
        value = param.type.convert(text, param, None)
    except click.BadParameter as exc:
        raise InvalidInput(f"{name}: {exc.message.rstrip('.')}.", "Give another value.") from exc
    if not isinstance(value, bool | int | float):
        value = text
    return [value] if param.multiple else value


def _near(name: str, known: Iterable[str]) -> str:
    """The end of a sentence: a question, where a name is nearly a known one."""
    near = get_close_matches(name, sorted(known), n=1, cutoff=0.7)
    return f". Did you mean {near[0]}?" if near else "."


def _variables(command: click.Command) -> Iterator[str]:
    """The environment variables that set a command's options, or those of a group's commands."""
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from _variables(inner)
    for param in command.params:
        if isinstance(param, click.Option):
            yield str(param.envvar)
            yield f"LLMCLI_{flag_name(param).upper()}"


def unknown_variables(group: click.Group, called: str | None) -> list[str]:
    """Sentences about variables that begin as ours do, and set nothing.

    Args:
        group: The root.
        called: The command that is to run. Others are imported only for a variable that it does
            not know.
    """
    unknown = {
        name
        for name in os.environ
        if name.startswith("LLMCLI_")
        and name not in _NO_OPTION
        and not name.startswith("LLMCLI_UPDATE_")
    }
    known: set[str] = set()
    for command in sorted(group.commands, key=lambda name: name != called):
        if not unknown:
            return []
        known.update(_variables(group.commands[command]))
        unknown -= known
    return [
        f"The variable {name} sets nothing{_near(name, known)}"
        for name in os.environ
        if name in unknown
    ]


def _default_map(
    group: click.Group, settings: dict[str, Any], path: Path, called: str | None
) -> dict[str, Any]:
    """Sort settings by command; Click wants them under its own names for the options."""
    shared = {_key(k): v for k, v in settings.items() if not isinstance(v, dict)}
    tables = {k: v for k, v in settings.items() if isinstance(v, dict)}
    tables.pop("aliases", None)
    names = [name for name in group.commands if name == called or name in tables]
    default_map, used = _of_group(group, names, shared, tables, path, "")
    if shared.keys() - used:
        default_map, used = _of_group(group, group.commands, shared, tables, path, "")
    if unknown := sorted(shared.keys() - used):
        raise _unknown(unknown[0], path, used, key=unknown[0])
    return default_map


def _of_group(
    group: click.Group,
    names: Iterable[str],
    shared: dict[str, Any],
    tables: dict[str, Any],
    path: Path,
    prefix: str,
) -> tuple[dict[str, Any], set[str]]:
    """Return the default_map of a group's ``names``, and the options that these commands know."""
    if unknown := sorted(tables.keys() - group.commands.keys()):
        raise _unknown(f"[{prefix}{unknown[0]}]", path, (f"[{each}]" for each in group.commands))
    default_map: dict[str, Any] = {}
    used: set[str] = set()
    for name in names:
        command = group.commands[name]
        table = tables.get(name, {})
        own = {_key(k): v for k, v in table.items() if not isinstance(v, dict)}
        inner = {k: v for k, v in table.items() if isinstance(v, dict)}
        if isinstance(command, click.Group):
            default_map[name], known = _of_group(
                command, command.commands, shared | own, inner, path, f"{prefix}{name}."
            )
        else:
            options = _option_names(command)
            known = set(options)
            both = shared | own
            default_map[name] = {options[k]: v for k, v in both.items() if k in options}
            own |= inner
        if unknown := sorted(own.keys() - known):
            raise _unknown(
                f"[{prefix}{name}] {unknown[0]}",
                path,
                known,
                command=f"{prefix}{name}",
                key=unknown[0],
            )
        used |= known
    return default_map, used


def _key(key: str) -> str:
    return key.replace("-", "_")


def _option_names(command: click.Command) -> dict[str, str]:
    """Return Click's name of each option by the name that a user knows."""
    return {
        flag_name(param): param.name
        for param in command.params
        if isinstance(param, click.Option) and param.name
    }


def name_variables(name: str, command: click.Command, prefix: str) -> None:
    """Let ``<PREFIX>_<COMMAND>_<FLAG>`` set each option, whatever name Click has for it."""
    own = f"{prefix}_{name.upper().replace('-', '_')}"
    if isinstance(command, click.Group):
        for each, inner in command.commands.items():
            name_variables(each, inner, own)
    for param in command.params:
        if isinstance(param, click.Option) and param.envvar is None:
            param.envvar = f"{own}_{flag_name(param).upper()}"


def _unknown(
    what: str, path: Path, known: Iterable[str], *, command: str | None = None, key: str = ""
) -> InvalidInput:
    where = where_set(command, key) if key else str(path)
    return InvalidInput(
        f"{where} sets {what}, which does not exist{_near(key or what, known)}",
        "See 'llmcli COMMAND --help' for the names.",
    )


def aliases() -> dict[str, str]:
    """Models by the names that the config file's ``[aliases]`` gives them.

    Raises:
        InvalidInput: one of them is no text.
    """
    found = read_file(config_path()).get("aliases", {})
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise InvalidInput(
            f"[aliases] in {config_path()} is no table of names.", 'Write small = "org/name".'
        )
    return found

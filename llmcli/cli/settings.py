"""The config file: TOML in the user's configuration folder, as Click's default_map."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from llmcli.cli.options import flag_name
from llmcli.errors import InvalidInput


def config_path() -> Path:
    """Where the config file is: ``$LLMCLI_CONFIG``, else ``config.toml`` in the app folder."""
    named = os.environ.get("LLMCLI_CONFIG")
    return Path(named) if named else Path(click.get_app_dir("llmcli")) / "config.toml"


def load_settings(group: click.Group) -> dict[str, Any]:
    """Read the config file into a default_map: top-level keys for all commands, then tables.

    Raises:
        InvalidInput: the file is not TOML, or names a command or an option that does not exist.
    """
    path = config_path()
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
        settings = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise InvalidInput(f"{path} is not valid TOML: {exc}.", "Correct the file.") from exc
    return _default_map(group, settings, path)


def _default_map(group: click.Group, settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """Sort settings by command; Click wants them under its own names for the options."""
    shared = {_key(k): v for k, v in settings.items() if not isinstance(v, dict)}
    tables = {k: v for k, v in settings.items() if isinstance(v, dict)}
    default_map, used = _of_group(group, shared, tables, path, "")
    if unknown := sorted(shared.keys() - used):
        raise _unknown(unknown[0], path)
    return default_map


def _of_group(
    group: click.Group,
    shared: dict[str, Any],
    tables: dict[str, Any],
    path: Path,
    prefix: str,
) -> tuple[dict[str, Any], set[str]]:
    """Return a group's default_map, and which of the ``shared`` settings any command knows."""
    if unknown := sorted(tables.keys() - group.commands.keys()):
        raise _unknown(f"[{prefix}{unknown[0]}]", path)
    default_map: dict[str, Any] = {}
    used: set[str] = set()
    for name, command in group.commands.items():
        table = tables.get(name, {})
        own = {_key(k): v for k, v in table.items() if not isinstance(v, dict)}
        inner = {k: v for k, v in table.items() if isinstance(v, dict)}
        if isinstance(command, click.Group):
            default_map[name], known = _of_group(
                command, shared | own, inner, path, f"{prefix}{name}."
            )
        else:
            names = _option_names(command)
            known = set(names)
            both = shared | own
            default_map[name] = {names[k]: v for k, v in both.items() if k in names}
            own |= inner
        if unknown := sorted(own.keys() - known):
            raise _unknown(f"[{prefix}{name}] {unknown[0]}", path)
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


def name_variables(group: click.Group, prefix: str) -> None:
    """Let ``<PREFIX>_<COMMAND>_<FLAG>`` set each option, whatever name Click has for it."""
    for name, command in group.commands.items():
        own = f"{prefix}_{name.upper().replace('-', '_')}"
        if isinstance(command, click.Group):
            name_variables(command, own)
        for param in command.params:
            if isinstance(param, click.Option) and param.envvar is None:
                param.envvar = f"{own}_{flag_name(param).upper()}"


def _unknown(what: str, path: Path) -> InvalidInput:
    return InvalidInput(
        f"{path} sets {what}, which does not exist.", "See 'llmcli COMMAND --help' for the names."
    )

"""The config file: TOML in the user's configuration folder, as Click's default_map."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import click

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
        text = path.read_bytes().decode("utf-8")
        settings = tomllib.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as exc:
        raise InvalidInput(
            f"Cannot read {path}: {exc.strerror}.", "Check its permissions."
        ) from exc
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise InvalidInput(f"{path} is not valid TOML: {exc}.", "Correct the file.") from exc
    return _default_map(group, settings, path)


def _default_map(group: click.Group, settings: dict[str, Any], path: Path) -> dict[str, Any]:
    shared = {_key(k): v for k, v in settings.items() if not isinstance(v, dict)}
    tables = {k: v for k, v in settings.items() if isinstance(v, dict)}
    known_anywhere: set[str] = set()
    default_map: dict[str, Any] = {}
    for name, command in group.commands.items():
        known = _option_names(command)
        known_anywhere |= known
        table = {_key(k): v for k, v in tables.pop(name, {}).items()}
        if unknown := sorted(table.keys() - known - _subcommands(command)):
            raise _unknown(f"[{name}] {unknown[0]}", path)
        own = {k: v for k, v in shared.items() if k in known} | table
        if isinstance(command, click.Group):
            for sub_name, sub in command.commands.items():
                inner = {k: v for k, v in own.items() if k in _option_names(sub)}
                default_map.setdefault(name, {})[sub_name] = inner
        else:
            default_map[name] = own
    if tables:
        raise _unknown(f"[{min(tables)}]", path)
    if unknown_shared := sorted(shared.keys() - known_anywhere):
        raise _unknown(unknown_shared[0], path)
    return default_map


def _key(key: str) -> str:
    return key.replace("-", "_")


def _option_names(command: click.Command) -> set[str]:
    if isinstance(command, click.Group):
        return set().union(*(_option_names(sub) for sub in command.commands.values()))
    return {
        param.name for param in command.params if isinstance(param, click.Option) and param.name
    }


def _subcommands(command: click.Command) -> set[str]:
    return set(command.commands) if isinstance(command, click.Group) else set()


def _unknown(what: str, path: Path) -> InvalidInput:
    return InvalidInput(
        f"{path} sets {what}, which does not exist.", "See 'llmcli COMMAND --help' for the names."
    )

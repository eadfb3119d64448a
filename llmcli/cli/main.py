"""The group of all commands."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module

import click

from llmcli._version import __version__
from llmcli.cli.boundary import ARGUMENTS, Group
from llmcli.cli.options import ALIASES
from llmcli.cli.settings import aliases, load_settings, name_variables, unknown_variables
from llmcli.errors import InvalidInput
from llmcli.terminal.console import Console

# Where each command is; the module's attribute has the command's name, unless it is given.
_HOMES = {
    "generate": "generate",
    "chat": "chat",
    "next": "next:next_tokens",
    "fill": "fill",
    "encode": "encode",
    "decode": "decode",
    "score": "score",
    "rank": "rank",
    "classify": "classify",
    "pairs": "pairs",
    "calibrate": "calibrate",
    "inspect": "inspect",
    "train": "train",
    "bench": "bench",
    "serve": "serve",
    "models": "models",
    "templates": "templates",
    "config": "config",
    "log": "log",
    "replay": "log:replay_record",
    "completion": "completion",
    "man": "manual:man",
    "help": "manual:help_command",
}


class Commands(MutableMapping[str, click.Command]):
    """Commands by their names, each imported when it is asked for: start-up is a promise.

    Args:
        homes: ``MODULE`` or ``MODULE:ATTRIBUTE`` of llmcli.cli by the command's name.
    """

    def __init__(self, homes: dict[str, str]) -> None:
        self._homes = homes
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            module, _, attribute = self._homes[name].partition(":")
            found = getattr(import_module(f"llmcli.cli.{module}"), attribute or name)
            name_variables(name, found, "LLMCLI")
            self._loaded[name] = found
        return self._loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._homes.setdefault(name, "")
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._homes[name]
        self._loaded.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)

    def __contains__(self, name: object) -> bool:
        return name in self._homes


@click.group(
    cls=Group,
    commands=Commands(_HOMES),
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "LLMCLI",
        "max_content_width": 100,
    },
)
@click.version_option(__version__, "-V", "--version", message="llmcli %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Pretrained language models at the command line.

    \b
    Examples:
      llmcli generate "Once upon a time"
      cat article.txt | llmcli generate - "TL;DR:"
      llmcli next "The capital of France is"

    Results go to stdout, everything else to stderr. Settings come from flags, then LLMCLI_*
    environment variables, then config.toml, then the defaults.
    """
    ctx.meta[ALIASES] = aliases
    if not {"-q", "--quiet"} & set(ctx.meta[ARGUMENTS]):
        for sentence in unknown_variables(cli):
            Console().notice(sentence)
    try:
        ctx.default_map = load_settings(cli)
    except InvalidInput:
        # --help is what the message sends to.
        if not {"-h", "--help"} & set(ctx.meta[ARGUMENTS]):
            raise

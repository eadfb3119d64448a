"""The group of all commands."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module

import click

from llmcli._version import __version__
from llmcli.cli.boundary import ARGUMENTS, Group
from llmcli.cli.settings import load_settings, name_variables, unknown_variables
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

# What each command's help begins with, so that the list of them imports none.
SUMMARIES = {
    "generate": "Continue a prompt.",
    "chat": "Chat with a model, or ask it one thing.",
    "next": "Show the likeliest next tokens, before and after the sampling filters.",
    "fill": "List the likeliest words for each [MASK] in a text, with a masked model such as BERT.",
    "encode": "Turn text into a model's token ids; or count, cut and split it by tokens.",
    "decode": "Turn token ids into the bytes they stand for.",
    "score": "Measure how well a model predicts text: perplexity, bits per byte, surprises.",
    "rank": "Rank continuations of a prompt by how likely a model finds them.",
    "classify": "Choose the label that fits a text, by how likely each label is after it.",
    "pairs": "Count how often a model finds the good sentence of a pair more likely.",
    "calibrate": "Check a model's probabilities: when 70 % sure, is it right 70 % of the time?",
    "inspect": "Show what a model does with a text: attention, layers, influences.",
    "train": "Train a GPT-2 on text, or fine-tune another model.",
    "bench": "Measure prefill, decoding, load time and memory.",
    "serve": "Serve a model over HTTP, with the OpenAI API.",
    "models": "List, download, describe and delete models.",
    "templates": "List, show and edit prompt templates.",
    "config": "Show and change settings.",
    "log": "Keep what you generate, search it, and generate it again.",
    "replay": "Generate again from a log record on stdin, and compare.",
    "completion": "Print the completion script for a shell.",
    "man": "Print the man page of a command, or install those of all commands.",
    "help": "Show the help of a command.",
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
    summaries=SUMMARIES,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "LLMCLI",
        "max_content_width": 100,
    },
)
@click.version_option(__version__, "-V", "--version", message="llmcli %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Run pretrained language models from the command line.

    \b
    Examples:
      llmcli generate "Once upon a time"
      cat article.txt | llmcli generate - "TL;DR:"
      llmcli next "The capital of France is"

    Results go to stdout, everything else to stderr. Settings come from options, then LLMCLI_*
    environment variables, then config.toml, then the defaults.
    """
    if not {"-q", "--quiet"} & set(ctx.meta[ARGUMENTS]):
        for sentence in unknown_variables(cli, ctx.invoked_subcommand):
            Console().notice(sentence)
    try:
        ctx.default_map = load_settings(cli, ctx.invoked_subcommand)
    except InvalidInput:
        # --help is what the message sends to.
        if not {"-h", "--help"} & set(ctx.meta[ARGUMENTS]):
            raise

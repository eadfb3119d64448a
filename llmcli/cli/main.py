"""The group of all commands."""

from __future__ import annotations

import click

from llmcli._version import __version__
from llmcli.cli.bench import bench
from llmcli.cli.boundary import ARGUMENTS, Group
from llmcli.cli.calibrate import calibrate
from llmcli.cli.chat import chat
from llmcli.cli.classify import classify
from llmcli.cli.completion import completion
from llmcli.cli.config import config
from llmcli.cli.decode import decode
from llmcli.cli.encode import encode
from llmcli.cli.fill import fill
from llmcli.cli.generate import generate
from llmcli.cli.inspect import inspect
from llmcli.cli.log import log, replay_record
from llmcli.cli.manual import help_command, man
from llmcli.cli.models import models
from llmcli.cli.next import next_tokens
from llmcli.cli.options import ALIASES
from llmcli.cli.pairs import pairs
from llmcli.cli.rank import rank
from llmcli.cli.score import score
from llmcli.cli.serve import serve
from llmcli.cli.settings import aliases, load_settings, name_variables, unknown_variables
from llmcli.cli.train import train
from llmcli.errors import InvalidInput
from llmcli.terminal.console import Console


@click.group(
    cls=Group,
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


for _command in (
    generate,
    chat,
    next_tokens,
    fill,
    encode,
    decode,
    score,
    rank,
    classify,
    pairs,
    calibrate,
    inspect,
    train,
    bench,
    serve,
    models,
    config,
    log,
    replay_record,
    completion,
    man,
    help_command,
):
    cli.add_command(_command)
name_variables(cli, "LLMCLI")

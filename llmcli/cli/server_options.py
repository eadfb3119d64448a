"""The options that let a command ask a running server instead of loading a model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmcli.cli.options import bundle, flag_name, said, shared_option
from llmcli.errors import InvalidInput
from llmcli.models.options import LoadOptions

if TYPE_CHECKING:
    from llmcli.tasks.remote import Client

# What says nothing about how a model is loaded or a text is made.
_ALWAYS = {"server", "api_key_file", "model", "json_output", "color", "quiet", "verbose", "debug"}
_INPUT = {"prompt", "text", "files", "errors", "keep_newline"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Which server, and what opens it.

    Attributes:
        server: Its URL; None to load a model here.
        api_key_file: A file with the key in its first line.
    """

    server: str | None
    api_key_file: str | None

    def client(self, model: LoadOptions, takes: Collection[str]) -> Client:
        """What speaks to the server.

        Args:
            model: Of these options the server takes the name alone, if it stands in the call.
            takes: Parameters of the command that it takes, too.

        Raises:
            InvalidInput: another one was given, or the key cannot be read.
        """
        from llmcli.io.files import read_keys
        from llmcli.tasks.remote import Client

        context = click.get_current_context()
        for param in context.command.params:
            if param.name in _ALWAYS or param.name in _INPUT or param.name in takes:
                continue
            if param.name is not None and isinstance(param, click.Option) and said(param.name):
                flag = flag_name(param).replace("_", "-")
                raise InvalidInput(f"--{flag} does not go with --server.", "Leave one of them out.")
        key = None if self.api_key_file is None else read_keys(Path(self.api_key_file))[0]
        name = model.model if said("model") else None
        client = Client(self.server or "", key=key, model=name)
        context.call_on_close(client.close)
        return client


server_options = bundle(
    "server",
    ServerOptions,
    shared_option(
        "--server", metavar="URL", help="Use a running 'llmcli serve' instead of loading a model."
    ),
    shared_option(
        "--api-key-file",
        type=click.Path(),
        metavar="FILE",
        help="File that holds the server's API key.",
    ),
)
"""Adds --server and --api-key-file; the callback takes ``server: ServerOptions``."""

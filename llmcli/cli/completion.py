"""``llmcli completion``: the shell's completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from llmcli.cli.help import command
from llmcli.cli.options import output_options
from llmcli.errors import InvalidInput
from llmcli.terminal.console import Console


@command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@output_options
@click.pass_context
def completion(ctx: click.Context, shell: str, console: Console) -> None:
    """Print the completion script for a shell.

    \b
    Examples:
      llmcli completion bash > ~/.local/share/bash-completion/completions/llmcli
      llmcli completion zsh > "${fpath[1]}/_llmcli"
      llmcli completion fish > ~/.config/fish/completions/llmcli.fish
    """
    shell_class = get_completion_class(shell)
    if shell_class is None:
        raise InvalidInput(f"There is no completion for {shell}.", "Use bash, zsh or fish.")
    script = shell_class(ctx.find_root().command, {}, "llmcli", "_LLMCLI_COMPLETE").source()
    console.write_raw(script)

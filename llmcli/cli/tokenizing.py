"""What encode and decode share: a model's tokenizer, without its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcli.cli.options import ResolveOptions
from llmcli.terminal.console import Console

if TYPE_CHECKING:
    from llmcli.hub.resolve import ResolvedModel
    from llmcli.tokenization.tokenizer import Tokenizer


def load_tokenizer(
    model: ResolveOptions, console: Console, *, name: str | None = None
) -> tuple[Tokenizer, ResolvedModel]:
    """Return the tokenizer of a model (of ``name`` instead) and where its files came from."""
    from llmcli.tokenization.tokenizer import Tokenizer

    resolved = model.resolve(console, need="tokenizer", model=name)
    return Tokenizer.from_folder(resolved.folder, detail=console.detail), resolved

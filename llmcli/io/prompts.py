"""A prompt from its parts: arguments, files, stdin."""

from __future__ import annotations

from collections.abc import Sequence

from llmcli.errors import InvalidInput
from llmcli.io.sources import (
    STDIN,
    DecodeErrors,
    check_argument,
    read_text,
    stdin_is_terminal,
    unread_stdin,
)
from llmcli.reporting import Notify


def read_prompt(
    parts: Sequence[str],
    files: Sequence[str],
    *,
    notify: Notify,
    errors: DecodeErrors = "strict",
    keep_newline: bool = False,
) -> str:
    """Join files, then parts, with newlines; ``-`` is stdin's text at that place.

    With neither, stdin is read. One trailing newline of a file or of stdin is dropped, as
    ``$(...)`` would, unless ``keep_newline``.

    Raises:
        InvalidInput: nothing to read, stdin asked for twice, or a source cannot be read.
        InvalidText: not valid UTF-8.
    """
    sources = [*(("file", name) for name in files), *(("text", part) for part in parts)]
    if not sources:
        if stdin_is_terminal():
            raise InvalidInput(
                "There is no prompt.", "Give one as an argument, with -i FILE, or through a pipe."
            )
        sources = [("file", STDIN)]
    asked = sum(name == STDIN for _, name in sources)
    if asked > 1:
        raise InvalidInput("stdin is asked for more than once.", "Write '-' in one place only.")
    if not asked and unread_stdin():
        notify("stdin holds data that was not asked for: write '-' to read it.")
    texts = []
    for kind, name in sources:
        if kind == "text" and name != STDIN:
            texts.append(check_argument(name, source="The prompt", errors=errors))
        else:
            text = read_text(name, errors=errors)
            texts.append(text if keep_newline else _drop_newline(text))
    return "\n".join(texts)


def _drop_newline(text: str) -> str:
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")

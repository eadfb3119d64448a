"""Tokens made visible: escaped, one a line, or side by side in alternating tints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from llmcli.terminal.escaping import escape_controls, one_line
from llmcli.terminal.palette import DIM, alternating_sgr, painted

_INVALID = re.compile("[\udc80-\udcff]")
_SEPARATOR = "│"


def escaped_token(data: bytes) -> str:
    """A token on one line in double quotes, every byte visible.

    Bytes that are not UTF-8 are ``\\xNN``, control characters as `escaping` spells them; a
    backslash and a double quote are escaped, so that the line can be read back.
    """
    text = data.decode("utf-8", "surrogateescape").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{one_line(_INVALID.sub(_hex, text))}"'


def tinted(tokens: Iterable[tuple[int, bytes]], *, color: bool, ids: bool) -> Iterator[str]:
    """Tokens side by side as they read, safe for a terminal.

    Args:
        tokens: Ids and bytes.
        color: Alternate background tints; otherwise a bar stands between tokens.
        ids: Put each token's id behind it.
    """
    for index, (token_id, data) in enumerate(tokens):
        text = data.decode("utf-8", "surrogateescape")
        shown = escape_controls(_INVALID.sub(_hex, text)).replace("\t", "→")
        shown = shown.replace("\n", "↵\n")
        label = f"{token_id} " if ids else ""
        if color:
            yield painted(shown, alternating_sgr(index)) + painted(label, DIM)
        else:
            yield (_SEPARATOR if index else "") + shown + label.rstrip()


def _hex(match: re.Match[str]) -> str:
    return f"\\x{ord(match[0]) - 0xDC00:02x}"

"""Tokens made visible: escaped, one a line, or side by side in alternating tints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from llmcli.terminal.escaping import escape_controls, one_line

# Backgrounds that black text can be read on, in 256 colours.
_TINTS = (153, 223, 157, 225, 229, 189)
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
        # A newline ends the tint, or the terminal would paint the rest of the line.
        lines = [f"{line}↵" for line in shown.split("\n")[:-1]] + [shown.split("\n")[-1]]
        label = f"{token_id} " if ids else ""
        if color:
            tint = f"\x1b[30;48;5;{_TINTS[index % len(_TINTS)]}m"
            painted = "\n".join(f"{tint}{line}\x1b[0m" if line else "" for line in lines)
            yield painted + (f"\x1b[2m{label}\x1b[0m" if label else "")
        else:
            yield (_SEPARATOR if index else "") + "\n".join(lines) + label.rstrip()


def _hex(match: re.Match[str]) -> str:
    return f"\\x{ord(match[0]) - 0xDC00:02x}"


def columns(rows: Iterable[tuple[str, ...]]) -> str:
    """Rows as aligned columns: the first to the left, the others to the right."""
    table = [tuple(one_line(cell) for cell in row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "".join(
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        + "\n"
        for row in table
    )

"""Text made safe to show: nothing a model wrote or a file holds can drive the terminal."""

from __future__ import annotations

# C0 but newline and tab, DEL, C1; then what reorders or breaks lines unseen: the bidirectional
# controls and marks (U+061C, U+200E-F, U+202A-E, U+2066-9) and the line separators (U+2028-9).
_CONTROLS = [
    *(c for c in range(0x20) if c not in (0x09, 0x0A)),
    *range(0x7F, 0xA0),
    0x061C,
    0x200E,
    0x200F,
    *range(0x2028, 0x202F),
    *range(0x2066, 0x206A),
    *range(0xD800, 0xE000),
]


def _spelling(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


_TABLE = {code: _spelling(code) for code in _CONTROLS}
_LINE_TABLE = {**_TABLE, 0x09: "\\t", 0x0A: "\\n"}
_JSON_TABLE = {code: f"\\u{code:04x}" for code in _CONTROLS}


def escape_controls(text: str) -> str:
    """Return ``text`` with control and bidirectional characters spelt out (``\\x1b``).

    Newlines and tabs stay; lone surrogates are spelt out too, so the result is valid Unicode.
    """
    return text.translate(_TABLE)


def one_line(text: str) -> str:
    """Return ``text`` as :func:`escape_controls` does, with newlines and tabs spelt out too."""
    return text.translate(_LINE_TABLE)


def escape_json(line: str) -> str:
    """Return one line of JSON with the same characters spelt as JSON spells them."""
    return line.translate(_JSON_TABLE)

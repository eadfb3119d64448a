"""Nothing that a model wrote or a file holds can drive a terminal."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.io.json_line import to_json
from llmcli.terminal.escaping import escape_controls, escape_json, one_line

DANGEROUS = (
    "\x1b[2J",  # clears the screen
    "\x1b]52;c;aGk=\x07",  # writes to the clipboard
    "\x1b]0;title\x1b\\",
    "\x9b31m",  # C1: the same as ESC [
    "\x9d0;title\x9c",
    "\x1bP$q\x1b\\",
    "\x00\x07\x08\x0b\x0c\r\x0e\x0f\x7f",
    "\u202eright to left\u202c",
    "\u2066isolated\u2069",
    "\u061c\u200e\u200f",
    "\u2028\u2029",
    "\ud800",
)
ANYTHING = st.text(
    st.characters(min_codepoint=0, max_codepoint=0x10FFFF)
    | st.sampled_from(sorted({c for text in DANGEROUS for c in text})),
    max_size=60,
)
BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
MARKS = {"ARABIC LETTER MARK", "LEFT-TO-RIGHT MARK", "RIGHT-TO-LEFT MARK"}


def drives_a_terminal(character: str) -> bool:
    """By Unicode's own tables: controls, surrogates, line separators, what reorders text."""
    return (
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(character) in BIDI
        or unicodedata.name(character, "") in MARKS
    )


def test_every_code_point() -> None:
    for code in range(0x110000):
        character = chr(code)
        shown = escape_controls(character)
        if character in "\n\t" or not drives_a_terminal(character):
            assert shown == character
        else:
            assert shown.isascii()
            assert shown.isprintable()
            assert shown == (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


@settings(max_examples=500)
@given(ANYTHING)
def test_fuzz_row_27_nothing_is_left_that_drives_a_terminal(text: str) -> None:
    shown = escape_controls(text)
    assert not any(drives_a_terminal(c) for c in shown if c not in "\n\t")
    shown.encode("utf-8")
    assert escape_controls(shown) == shown
    line = one_line(text)
    assert not any(drives_a_terminal(c) for c in line)
    assert len(line.splitlines()) <= 1


@settings(max_examples=300)
@given(ANYTHING)
def test_escaped_json_says_the_same(text: str) -> None:
    line = escape_json(to_json({"text": text, text: [text]}))
    assert not any(drives_a_terminal(c) for c in line)
    assert json.loads(line) == {"text": text, text: [text]}


@pytest.mark.parametrize("text", DANGEROUS, ids=ascii)
def test_examples(text: str) -> None:
    assert not any(drives_a_terminal(c) for c in escape_controls(text))


def test_ordinary_text_is_untouched() -> None:
    text = "Le café, 東京, привет, שלום, 🦊👩\u200d🚀, tab\there,\nand [/foo] [bold]markup[/bold]"
    assert escape_controls(text) == text

"""Self-contained pages: one frame with its style and script, and what each shows in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

_PLACES = ("/*STYLE*/\n", "<!--BODY-->\n", "/*SCRIPT*/\n")
_DATA = "<!--DATA-->\n"


class Page:
    """Writes a page piece by piece, so that nothing large is held.

    Data stands in script elements that the browser does not run, with every ``<`` spelt out, and
    reaches the page as text, never as markup. The page asks for nothing from anywhere.

    Args:
        name: Of the files in ``pages/`` that it is made of.
        write: Takes the page's bytes.
    """

    def __init__(self, name: str, write: Callable[[bytes], Any]) -> None:
        frame = _file("page.html")
        parts = (
            _file("page.css") + _file(f"{name}.css"),
            _file(f"{name}.html"),
            _file("page.js") + _file(f"{name}.js"),
        )
        for place, part in zip(_PLACES, parts, strict=True):
            frame = frame.replace(place, part)
        head, self._tail = frame.split(_DATA)
        self._bytes = write
        self._separator = ""
        self._write(head)

    def data(self, name: str, value: Any) -> None:
        """Add data that the page's script reads by this name."""
        self._write(f"{_element(name)}{_embedded(value)}</script>\n")

    def begin(self, name: str) -> None:
        """Begin a list, which is added item by item."""
        self._write(f"{_element(name)}[")
        self._separator = "\n"

    def item(self, value: Any) -> None:
        """Add the next item of the list."""
        self._write(self._separator + _embedded(value))
        self._separator = ",\n"

    def end(self) -> None:
        """End the list."""
        self._write("\n]</script>\n")

    def finish(self) -> None:
        """End the page."""
        self._write(self._tail)

    def _write(self, text: str) -> None:
        self._bytes(text.encode("utf-8", "replace"))


def shown_bytes(data: bytes) -> str:
    """A token's bytes as a page shows them; those that are not UTF-8 as ``\\\\xNN``."""
    return data.decode("utf-8", "backslashreplace")


def _file(name: str) -> str:
    return files("llmcli.terminal").joinpath("pages", name).read_text("utf-8")


def _element(name: str) -> str:
    return f'<script type="application/json" id="{name}">'


def _embedded(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")

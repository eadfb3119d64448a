"""One self-contained page that shows where a text surprised a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from typing import Any

from llmcli.tasks.seen_tokens import SeenToken
from llmcli.terminal.surprisal import Stretch, stretches

_STRETCHES = "/*STRETCHES*/"
_SUMMARY = "/*SUMMARY*/"


class SurprisalPage:
    """Writes the page as tokens come; nothing of the text is held.

    The template has two places for JSON. Data stands in script elements that the browser does
    not run, with every ``<`` spelt out, and reaches the page as text, never as markup.

    Args:
        write: Takes the page's bytes.
    """

    def __init__(self, write: Callable[[bytes], Any]) -> None:
        template = files("llmcli.terminal").joinpath("page.html").read_text("utf-8")
        head, rest = template.split(_STRETCHES)
        self._middle, self._tail = rest.split(_SUMMARY)
        self._bytes = write
        self._write(head)
        self._held: list[SeenToken] = []
        self._count = 0

    def add(self, token: SeenToken) -> None:
        """Add the next token."""
        self._held.append(token)
        *whole, last = stretches(self._held)
        # The last may wait for the rest of its character, for three more tokens at most.
        if not last.text.endswith("\ufffd") or len(last.tokens) > _MOST:
            whole.append(last)
        self._put(whole)
        self._held = [] if whole and whole[-1] is last else list(last.tokens)

    def finish(self, record: Mapping[str, Any]) -> None:
        """Add the totals, as ``score --json`` prints them, and end the page."""
        self._put(stretches(self._held))
        self._write(self._middle + _embedded(record) + self._tail)

    def _write(self, text: str) -> None:
        self._bytes(text.encode("utf-8", "replace"))

    def _put(self, found: Iterable[Stretch]) -> None:
        for stretch in found:
            tokens = [_compact(token) for token in stretch.tokens]
            separator = ",\n" if self._count else ""
            self._write(separator + _embedded([stretch.text, tokens]))
            self._count += 1


# A character has at most four bytes, so at most four tokens.
_MOST = 4


def _compact(token: SeenToken) -> list[Any]:
    """A token as the page's script reads it: text, id, logprob, rank, entropy, alternatives."""
    top = [[_shown(data), _rounded(logprob)] for _, data, logprob in token.top]
    entropy = _rounded(token.entropy)
    return [_shown(token.data), token.id, _rounded(token.logprob), token.rank, entropy, top]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _shown(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _embedded(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")

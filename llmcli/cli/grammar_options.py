"""The options that hold a continuation to a grammar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from llmcli.cli.options import (
    bundle,
    files,
    unescaped,
)
from llmcli.errors import InvalidInput
from llmcli.io.sources import read_text

if TYPE_CHECKING:
    from llmcli.engine.grammar.source import GrammarSource


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarOptions:
    """A grammar as given on the command line, in one of four ways."""

    json_schema: str | None = None
    regex: str | None = None
    grammar: str | None = None
    choice: tuple[str, ...] = ()

    def source(
        self, *, stop: tuple[str, ...] = (), num_beams: int | None = None
    ) -> GrammarSource | None:
        """Return the grammar, found to be one that can be compiled; None where none was given.

        Args:
            stop: Stop texts that were given, which do not go with one.
            num_beams: The same of beams.

        Raises:
            InvalidInput: several were given, one cannot be used, or what does not go with it was
                given.
            LlmcliError: llguidance is not installed.
        """
        flags = {
            "--json-schema": self.json_schema is not None,
            "--regex": self.regex is not None,
            "--grammar": self.grammar is not None,
            "--choice": bool(self.choice),
        }
        given = [flag for flag, there in flags.items() if there]
        if not given:
            return None
        if len(given) > 1:
            raise InvalidInput(f"{given[0]} and {given[1]} exclude each other.", "Give one.")
        if stop:
            raise InvalidInput(
                f"--stop does not work with {given[0]}, which says itself where a text ends.",
                "Leave one of them out.",
            )
        if (num_beams or 1) > 1:
            raise InvalidInput(
                f"{given[0]} does not work with beam search.", "Leave one of them out."
            )
        found = self._source()
        found.compiled()
        return found

    def _source(self) -> GrammarSource:
        from llmcli.engine.grammar import source

        if self.json_schema is not None:
            text, name = _text_or_file(self.json_schema)
            return source.parse_json_schema(text, source=name)
        if self.regex is not None:
            return source.regex(self.regex)
        if self.grammar is not None:
            return source.lark(read_text(self.grammar))
        return source.choices([unescaped(each) for each in self.choice])


def _text_or_file(given: str) -> tuple[str, str]:
    """A schema's text, and where it is from."""
    if given.lstrip()[:1] in ("{", "[") or given.strip() in ("true", "false"):
        return given, "--json-schema"
    return read_text(given), given


grammar_options = bundle(
    "grammar",
    GrammarOptions,
    click.option(
        "--json-schema",
        metavar="FILE|JSON",
        shell_complete=files,
        help="Hold the output to a JSON schema (compact JSON).",
    ),
    click.option("--regex", metavar="REGEX", help="Hold the output to a regular expression."),
    click.option(
        "--grammar",
        type=click.Path(),
        metavar="FILE",
        help="Hold the output to a Lark grammar.",
    ),
    click.option(
        "--choice",
        multiple=True,
        metavar="TEXT",
        help="Hold the output to one of these texts; repeatable.",
    ),
)
"""Adds --json-schema, --regex, --grammar and --choice; the callback takes ``grammar``."""

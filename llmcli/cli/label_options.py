"""How a model is asked for labels: options that ``classify`` and ``calibrate`` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from llmcli.cli.options import (
    F,
    bundle,
    files,
    unescaped,
)
from llmcli.errors import InvalidInput
from llmcli.io.files import is_file
from llmcli.io.records import Columns, Source
from llmcli.io.sources import check_argument, read_text
from llmcli.tasks.labels import DEFAULT_TEMPLATE, LabelTask, read_examples
from llmcli.tasks.templates import Template


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelOptions:
    """What a prompt is made of."""

    template: str | None = None
    shots: str | None = None
    label_field: str = "label"
    delimiter: str | None = None
    bos: bool | None = None
    domain_prompt: str | None = None
    gamma: float = 1.0

    def read_template(self) -> Template:
        """The template: a file's text, or the text itself.

        Raises:
            InvalidInput: it cannot be read.
        """
        if self.template is None:
            return Template.parse(DEFAULT_TEMPLATE)
        if is_file(self.template):
            return Template.parse(read_text(self.template).removesuffix("\n"))
        return Template.parse(unescaped(check_argument(self.template, source="--template")))

    def task(self, labels: Sequence[str], columns: Columns) -> LabelTask:
        """What is asked for.

        Args:
            labels: Those there are.
            columns: Where the shots have their texts.

        Raises:
            InvalidInput: something is wrong with the labels, the template or the shots.
        """
        delimiter = None if self.delimiter is None else unescaped(self.delimiter)
        task = LabelTask(
            labels=tuple(labels),
            template=self.read_template(),
            delimiter=delimiter,
            bos=self.bos,
        )
        if self.shots is None:
            return task
        source = Source(self.shots)
        source.check()
        examples = read_examples(
            source,
            columns,
            self.label_field,
            template=task.template,
            delimiter=delimiter,
            labels=task.labels,
        )
        return LabelTask(
            labels=task.labels,
            template=task.template,
            examples=examples,
            delimiter=delimiter,
            bos=self.bos,
        )


class Labels(click.ParamType[tuple[str, ...]]):
    """Labels with commas between them."""

    name = "label,label"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Return them, without white space around them."""
        if isinstance(value, tuple):
            return value
        return tuple(each.strip() for each in check_argument(value, source="--labels").split(","))


def _positive(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 <= value < float("inf"):
        raise InvalidInput(f"--gamma is {value}.", "It must be a finite number of at least 0.")
    return value


_ASKED = (
    click.option(
        "--template",
        metavar="FILE|TEXT",
        shell_complete=files,
        help="Template of the prompt: {input} is the text, {name} a field of its record.  "
        "[default: '{input}\\nLabel:']",
    ),
    click.option(
        "--shots",
        metavar="FILE",
        shell_complete=files,
        help="Put worked examples before each prompt: records with a label.",
    ),
    click.option(
        "--label-field", default="label", show_default=True, help="Field that holds the label."
    ),
    click.option(
        "--delimiter",
        help="Text between prompt and label.  [default: a space, unless either has white space "
        "there]",
    ),
    click.option(
        "--domain-prompt",
        metavar="TEXT",
        help="Prompt that pmi compares with.  [default: the end of the template]",
    ),
    click.option(
        "--gamma",
        type=float,
        default=1.0,
        show_default=True,
        callback=_positive,
        help="How much of the bias to take out; 1 is all of it.",
    ),
)


def label_options(*, bos: bool = True) -> Callable[[F], F]:
    """Add them; the callback takes ``asked: LabelOptions``.

    Args:
        bos: Whether ``--bos`` is among them.
    """
    own = (
        click.option(
            "--bos/--no-bos",
            default=None,
            help="Put the begin-of-text token before the prompt.  [default: as the tokenizer does]",
        ),
    )
    return bundle("asked", LabelOptions, *_ASKED, *(own if bos else ()))

"""``llmcli inspect``: what a model does with a text: attention, layers, influences."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from llmcli.cli.help import command
from llmcli.cli.options import (
    InputOptions,
    bundle,
    files,
    input_options,
    load_model,
    model_options,
    output_options,
)
from llmcli.errors import InvalidInput
from llmcli.io.files import atomic_write, existing_parent
from llmcli.io.prompts import read_prompt
from llmcli.io.sources import stdin_is_terminal
from llmcli.models.options import LoadOptions
from llmcli.terminal.console import Console

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel
    from llmcli.tasks.inspect.request import Inspection, InspectRequest, View

# Entries of attention matrices: what a page and what a line of JSON may hold.
_PAGE_CELLS, _JSON_CELLS = 40_000_000, 4_000_000
# Of a page that was not asked for attribution: it would take a pass for every token.
_PAGE_ATTRIBUTES = 128


class Pair(click.ParamType[tuple[int, int]]):
    """Two whole numbers with a sign between them."""

    def __init__(self, name: str, separator: str) -> None:
        self.name = name
        self._pattern = re.compile(rf"(\d+){re.escape(separator)}(\d+)", re.ASCII)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return the two numbers, or fail as Click's own types do."""
        if isinstance(value, tuple):
            return value
        if (match := self._pattern.fullmatch(value)) is None:
            self.fail(f"{value!r} is not {self.name}.", param, ctx)
        return int(match[1]), int(match[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectOptions:
    """Which views, and of what."""

    attention: bool
    layer: int | None
    head: int | None
    window: tuple[int, int] | None
    lens: bool
    attribute: str | None
    contrast: str | None
    steps: int
    head_off: tuple[tuple[int, int], ...]
    neighbours: str | None
    position: int | None
    count: int
    bos: bool
    html: str | None

    def check(self) -> None:
        """Raise InvalidInput if an option goes with nothing that was asked for."""
        pictures = self.attention or self.html is not None
        for given, name, present, needed in (
            (self.layer is not None, "--layer", self.attention, "--attention"),
            (self.head is not None, "--head", self.layer is not None, "--layer"),
            (self.window is not None, "--window", pictures, "--attention or --html"),
            (self.contrast is not None, "--contrast", self.attribute is not None, "--attribute"),
        ):
            if given and not present:
                raise InvalidInput(f"{name} goes with {needed}.", "Add it, or leave this one out.")
        if self.contrast is not None and self.attribute == self.contrast:
            raise InvalidInput(
                "The two tokens to compare are the same.", "Give another --contrast."
            )
        if self.html is not None:
            if self.neighbours is not None:
                raise InvalidInput(
                    "--html shows a text; --neighbours is of the vocabulary.", "Call them apart."
                )
            existing_parent(self.html)

    def views(self) -> set[View]:
        """The views that were named; the overview where none was."""
        named: dict[View, bool] = {
            "attention": self.attention,
            "lens": self.lens,
            "attribution": self.attribute is not None,
            "heads_off": bool(self.head_off),
            "neighbours": self.neighbours is not None,
        }
        return {name for name, given in named.items() if given} or {"overview"}


inspect_options = bundle(
    "options",
    InspectOptions,
    click.option("--attention", is_flag=True, help="Show what the attention heads attend to."),
    click.option(
        "--layer",
        type=click.IntRange(min=0),
        help="With --attention: the heads of this layer, counted from 0.",
    ),
    click.option(
        "--head",
        type=click.IntRange(min=0),
        help="With --layer: a map of this head, counted from 0.",
    ),
    click.option(
        "--window",
        type=Pair("A:B", ":"),
        metavar="A:B",
        help="Show tokens A to B - 1 in the maps of a long text.  [default: the last ones]",
    ),
    click.option(
        "--lens", is_flag=True, help="Show what each layer would predict (the logit lens)."
    ),
    click.option(
        "--attribute",
        is_flag=False,
        flag_value="",
        metavar="[TOKEN]",
        help="Show each token's influence on this next token.  [default: the likeliest]",
    ),
    click.option(
        "--contrast", metavar="TOKEN", help="With --attribute: why that token rather than this one."
    ),
    click.option(
        "--steps",
        type=click.IntRange(1, 4096),
        default=64,
        show_default=True,
        help="Number of steps of integrated gradients.",
    ),
    click.option(
        "--head-off",
        type=Pair("LAYER.HEAD", "."),
        multiple=True,
        metavar="L.H",
        help="Switch off head H of layer L; repeatable.",
    ),
    click.option(
        "--neighbours", metavar="TOKEN", help="List the tokens with the nearest embeddings."
    ),
    click.option(
        "--position",
        type=click.IntRange(min=0),
        help="Look at what follows token P, counted from 0.  [default: the last]",
    ),
    click.option(
        "-n",
        "--count",
        type=click.IntRange(1, 1000),
        default=10,
        show_default=True,
        help="Number of tokens to list.",
    ),
    click.option("--bos", is_flag=True, help="Put the begin-of-text token first."),
    click.option(
        "--html",
        metavar="FILE",
        shell_complete=files,
        help="Write a self-contained web page.",
    ),
)


@command()
@click.argument("prompt", nargs=-1, metavar="[TEXT]...")
@inspect_options
@input_options
@model_options
@output_options
def inspect(
    prompt: tuple[str, ...],
    options: InspectOptions,
    inputs: InputOptions,
    model: LoadOptions,
    console: Console,
) -> None:
    """Show what a model does with a text: attention, layers, influences.

    Without a view you get an overview. You can combine views; --html puts all of them on a page,
    or the ones you name. Put the text before --attribute, which would take it for its token.

    \b
    Examples:
      llmcli inspect "The king said to his daughter"
      llmcli inspect "The king said to his" --attention --layer 2 --head 1
      llmcli inspect "The king said to his" --lens
      llmcli inspect "The king said to his" --attribute " son" --contrast " wife"
      llmcli inspect --neighbours " king"
      llmcli inspect -i story.txt --html inside.html
    """
    options.check()
    text = _read(prompt, options, inputs, console)
    loaded = load_model(model, console)
    seen = _look(loaded, _request(loaded, options, text, console), console)
    start, end = seen.window
    if end - start < len(seen.tokens) and seen.shows_window:
        console.notice(
            f"Tokens {start} to {end - 1} of {len(seen.tokens)} are shown; --window A:B chooses."
        )
    if options.html is not None:
        _write_page(loaded, seen, options.html, inputs, console)
    if console.choose(json=True, text=False):
        console.record(_record(loaded, seen, text))
    else:
        _write_views(console, loaded, seen, options)


def _write_views(
    console: Console, model: LanguageModel, seen: Inspection, options: InspectOptions
) -> None:
    from llmcli.terminal.inspect import inspect_views

    views = inspect_views(
        seen,
        model.token_bytes,
        name=model.name,
        views=options.views(),
        layer=options.layer,
        head=options.head,
        width=console.width,
    )
    for index, view in enumerate(views):
        if index:
            console.line()
        console.render(view)


def _read(
    prompt: tuple[str, ...], options: InspectOptions, inputs: InputOptions, console: Console
) -> str | None:
    """The text; None where the vocabulary alone is asked about."""
    if options.views() == {"neighbours"}:
        if prompt or inputs.files:
            raise InvalidInput(
                "--neighbours is of the vocabulary and takes no text.",
                "Leave the text out, or add a view of it.",
            )
        return None
    if options.attribute and not prompt and not inputs.files and stdin_is_terminal():
        raise InvalidInput(
            f"There is no text: --attribute took {options.attribute!r} for its token.",
            "Put the text before --attribute.",
        )
    text = read_prompt(prompt, inputs.files, notify=console.notice, errors=inputs.errors)
    if not text and not options.bos:
        raise InvalidInput("The text is empty.", "Give some text, or --bos.")
    return text


def _request(
    model: LanguageModel, options: InspectOptions, text: str | None, console: Console
) -> InspectRequest:
    from llmcli.tasks.inspect.request import InspectRequest

    views = options.views()
    if options.html is not None:
        if views == {"overview"}:
            views |= {"attention", "lens"}
            if len(model.tokenizer.ids(text or "")) <= _PAGE_ATTRIBUTES:
                views.add("attribution")
            else:
                console.notice(
                    f"Attribution of more than {_PAGE_ATTRIBUTES} tokens takes long and is left "
                    "out; --attention --lens --attribute puts it on the page."
                )
        views.add("overview")
    cells = console.choose(json=_JSON_CELLS, text=_PAGE_CELLS)
    whole = options.html is not None or console.choose(json=True, text=False)
    return InspectRequest(
        views=frozenset(views),
        text=text,
        bos=options.bos,
        position=options.position,
        layer=options.layer,
        head=options.head,
        maps=whole or options.head is not None,
        window=options.window,
        cells=cells,
        every_position=whole,
        target=options.attribute or None,
        contrast=options.contrast,
        steps=options.steps,
        heads_off=options.head_off,
        neighbours=options.neighbours,
        count=options.count,
    )


def _look(model: LanguageModel, request: InspectRequest, console: Console) -> Inspection:
    from llmcli.tasks.inspect.request import inspect_model
    from llmcli.terminal.progress import step_progress

    with step_progress(console) as progress:
        return inspect_model(model, request, progress=progress)


def _write_page(
    model: LanguageModel, seen: Inspection, path: str, inputs: InputOptions, console: Console
) -> None:
    from llmcli.tasks.provenance import provenance
    from llmcli.terminal.inspect_page import write_inspect_page

    with atomic_write(existing_parent(path, inputs=inputs.files)) as file:
        write_inspect_page(file.write, seen, model.token_bytes, provenance(model))


def _record(model: LanguageModel, seen: Inspection, text: str | None) -> dict[str, Any]:
    """The record: the views, and the text of every token whose id they name."""
    from llmcli.tasks.provenance import provenance

    data = {token: model.token_bytes(token) for token in sorted(seen.named_tokens)}
    return {
        "text": text,
        **seen.to_dict(),
        "tokens": [
            {"id": each, "token": _shown(data[each]), "bytes": list(data[each])}
            for each in seen.tokens
        ],
        "vocabulary": {str(token): _shown(each) for token, each in data.items()},
        **provenance(model),
    }


def _shown(data: bytes) -> str:
    return data.decode("utf-8", "replace")

"""``llmcli serve``: one model, loaded once, for many programs."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmcli.cli.boundary import INTERRUPTED
from llmcli.cli.help import command
from llmcli.cli.options import (
    calibration_option,
    files,
    load_model,
    model_options,
    output_options,
)
from llmcli.errors import InvalidInput
from llmcli.extras import missing_package
from llmcli.models.options import LoadOptions
from llmcli.terminal.console import Console

if TYPE_CHECKING:
    from llmcli.models.calibration_file import FittedTemperature


class Bytes(click.ParamType[int]):
    """A size: a number, with kB, MB or GB behind it or alone."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,12}(?:\.\d+)?) *([kKmMgG]?)[bB]?", str(value).strip())
        if found is None:
            self.fail(f"{value!r:.40} is no size; 256MB is one.", param, ctx)
        unit = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}[found[2].lower()]
        return int(float(found[1]) * unit)


@command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port to listen on; 0 picks a free one.",
)
@click.option(
    "--uds", type=click.Path(), metavar="PATH", help="Listen on a Unix socket instead of a port."
)
@click.option(
    "--api-key-file",
    type=click.Path(),
    metavar="FILE",
    help="File of API keys, one per line; clients must send one of them.",
)
@click.option(
    "--allow-origin",
    multiple=True,
    metavar="ORIGIN",
    help="Let web pages from this origin use the server; repeatable.",
)
@click.option(
    "--slots",
    type=click.IntRange(1, 256),
    default=8,
    show_default=True,
    help="Number of texts to generate at once.",
)
@click.option(
    "--queue",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    help="Number of requests that may wait; the next one gets status 429.",
)
@click.option(
    "--prefix-cache",
    type=Bytes(),
    default="256MB",
    show_default=True,
    metavar="SIZE",
    help="Memory for prompts that were read before, so that none is read twice; 0 is off.",
)
@click.option(
    "--request-timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long an answer may take.  [default: no limit]",
)
@click.option(
    "--drain",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long running answers get to finish when the server is stopped.",
)
@click.option(
    "--max-body",
    type=click.IntRange(min=1),
    default=8 << 20,
    show_default=True,
    metavar="BYTES",
    help="Largest request body.",
)
@click.option(
    "--template",
    metavar="NAME|FILE",
    shell_complete=files,
    help="How to format conversations for the model.  [default: the model's own template]",
)
@click.option("--log-json", is_flag=True, help="Log each request to stderr as a line of JSON.")
@calibration_option
@model_options
@output_options
def serve(
    model: LoadOptions,
    console: Console,
    calibration: FittedTemperature | None,
    template: str | None,
    log_json: bool,
    **options: Any,
) -> None:
    """Serve a model over HTTP, with the OpenAI API.

    The same request gets the same answer, whatever else the server is doing. Ctrl-C or SIGTERM
    lets running answers finish; a second one does not. See docs/serve.md.

    \b
    Examples:
      llmcli serve -m fable
      llmcli serve -m gpt2 --precision int8 --slots 16
      llmcli serve -m fable --uds /run/user/1000/llmcli.sock
      curl http://127.0.0.1:8080/v1/completions -H "Content-Type: application/json" \\
        -d '{"prompt": "Once upon a time", "max_tokens": 32}'
    """
    try:
        from llmcli.serve.server import ServeOptions, serve
    except ModuleNotFoundError as exc:
        raise missing_package("The server", "serve") from exc
    from llmcli.io.files import read_keys
    from llmcli.serve.gate import Record
    from llmcli.tasks.chat import template_for

    if options["uds"] is not None and options["host"] != "127.0.0.1":
        raise InvalidInput("--uds does not go with --host.", "Leave one of them out.")
    keys = options.pop("api_key_file")
    chosen = ServeOptions(
        host=options["host"],
        port=options["port"],
        uds=None if options["uds"] is None else Path(options["uds"]),
        keys=() if keys is None else read_keys(Path(keys)),
        origins=options["allow_origin"],
        slots=options["slots"],
        queue=options["queue"],
        cache_bytes=options["prefix_cache"],
        timeout=options["request_timeout"],
        drain=options["drain"],
        max_body=options["max_body"],
    )
    loaded = load_model(model, console, calibration=calibration)

    def ready(url: str) -> None:
        console.json_only({"url": url, "model": loaded.name})
        console.text_only(f"Serving {loaded.name} at {url}")
        console.flush()

    def noted(record: Record) -> None:
        if log_json:
            console.log(record.to_dict())

    ended_by = serve(
        loaded,
        chosen,
        template=lambda: template_for(loaded, template),
        ready=ready,
        notify=console.info,
        noted=noted,
    )
    if ended_by == signal.SIGINT:
        raise SystemExit(INTERRUPTED)

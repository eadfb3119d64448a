"""``llmcli next``: the next token's distribution, raw beside filtered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llmcli.cli.batch import BatchOptions, batch_options, run_batch
from llmcli.cli.help import command
from llmcli.cli.options import (
    InputOptions,
    calibration_option,
    files,
    input_options,
    load_model,
    model_options,
    output_options,
    refuse_idle,
)
from llmcli.cli.sampling_options import SamplingOptions, filter_options
from llmcli.cli.server_options import ServerOptions, server_options
from llmcli.engine.params import SamplingParams
from llmcli.errors import InvalidInput
from llmcli.io.files import existing_parent
from llmcli.io.prompts import read_prompt
from llmcli.models.options import LoadOptions
from llmcli.terminal.console import Console

if TYPE_CHECKING:
    from llmcli.models.calibration_file import FittedTemperature
    from llmcli.tasks.batch import Verb


@command("next")
@click.argument("prompt", nargs=-1)
@click.option(
    "-n",
    "--count",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Number of tokens to list.",
)
@filter_options
@click.option(
    "--html",
    metavar="FILE",
    shell_complete=files,
    help="Write a page to look at, complete in itself.",
)
@click.option("--bos", is_flag=True, help="Put the begin-of-text token first.")
@click.option("--keep-newline", is_flag=True, help="Keep the newline at the end of stdin.")
@calibration_option
@server_options
@batch_options()
@input_options
@model_options
@output_options
def next_tokens(
    prompt: tuple[str, ...],
    count: int,
    sampling: SamplingOptions,
    html: str | None,
    bos: bool,
    keep_newline: bool,
    calibration: FittedTemperature | None,
    server: ServerOptions,
    batch: BatchOptions,
    inputs: InputOptions,
    model: LoadOptions,
    console: Console,
) -> None:
    """Show the likeliest next tokens, before and after the sampling filters.

    \b
    Examples:
      llmcli next "The capital of France is"
      llmcli next -n 5 --temperature 0.7 --top-p 0.9 "Once upon a"
      llmcli next --json "2 + 2 =" | jq '.candidates[0]'
      llmcli next --html next.html "Once upon a"
      llmcli next --jsonl -i prompts.jsonl -o next.jsonl
    """
    given = sampling.given()
    SamplingParams(**given)
    batch.check(inputs)

    if batch.jsonl:
        refuse_idle("does not go with --jsonl", keep_newline="--keep-newline", html="--html")

        def load(console: Console) -> Verb:
            from llmcli.tasks.next import predict_records

            loaded = load_model(batch.placed(model), console, calibration=calibration)
            settings = {**given, **sampling.by_token(loaded)}
            return predict_records(loaded, settings, count=count, bos=bos)

        run_batch(batch, prompt, inputs, console, load)
        return
    page = None if html is None else existing_parent(html, inputs=inputs.files)
    text = read_prompt(
        prompt, inputs.files, notify=console.notice, errors=inputs.errors, keep_newline=keep_newline
    )
    if not text and not bos:
        raise InvalidInput(
            "The prompt is empty.", "Give some text, or --bos to start from the end-of-text token."
        )
    if server.server is not None:
        client = server.client(model, _REMOTE)
        given["logit_bias"] = client.logit_bias(sampling.logit_bias)
        source, found, record = client.next_tokens(text, given, count=count, bos=bos)
        token_bytes = source.token_bytes
    else:
        from llmcli.tasks.next import predict

        loaded = load_model(model, console, calibration=calibration)
        answer = predict(loaded, text, {**given, **sampling.by_token(loaded)}, count=count, bos=bos)
        found, record, token_bytes = answer.next, answer.to_dict(), loaded.token_bytes

    if page is not None:
        from llmcli.terminal.next_page import write_next_page

        write_next_page(page, record, text)

    def show_json() -> None:
        console.record(record)

    def show_table() -> None:
        from llmcli.terminal.next import next_table

        console.render(next_table(found, token_bytes))

    console.choose(json=show_json, text=show_table)()


# What a server takes of the command's options.
_REMOTE = {
    *(
        "count",
        "html",
        "bos",
        "temperature",
        "greedy",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "top_h",
    ),
    *("epsilon_cutoff", "eta_cutoff", "repetition_penalty", "presence_penalty"),
    *("frequency_penalty", "no_repeat_ngram_size", "logit_bias", "overflow"),
}

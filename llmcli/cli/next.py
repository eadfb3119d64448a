"""``llmcli next``: the next token's distribution, raw beside filtered."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from llmcli.cli.options import (
    InputOptions,
    input_options,
    load_model,
    model_options,
    output_options,
)
from llmcli.cli.sampling_options import SamplingOptions, filter_options
from llmcli.engine.params import SamplingParams
from llmcli.errors import InvalidInput
from llmcli.io.prompts import read_prompt
from llmcli.models.options import LoadOptions
from llmcli.terminal.console import Console

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel
    from llmcli.tasks.next import NextToken


@click.command("next")
@click.argument("prompt", nargs=-1)
@click.option(
    "-n",
    "--count",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="How many tokens to list.",
)
@filter_options
@click.option("--bos", is_flag=True, help="Put the begin-of-text token first.")
@click.option("--keep-newline", is_flag=True, help="Keep stdin's last newline.")
@input_options
@model_options
@output_options
def next_tokens(
    prompt: tuple[str, ...],
    count: int,
    sampling: SamplingOptions,
    bos: bool,
    keep_newline: bool,
    inputs: InputOptions,
    model: LoadOptions,
    console: Console,
) -> None:
    """Show what the model expects next, and what the sampling filters leave of it.

    \b
    Examples:
      llmcli next "The capital of France is"
      llmcli next -n 5 --temperature 0.7 --top-p 0.9 "Once upon a"
      llmcli next --json "2 + 2 =" | jq '.candidates[0]'
    """
    given = sampling.given()
    SamplingParams(**given)
    text = read_prompt(
        prompt, inputs.files, notify=console.notice, errors=inputs.errors, keep_newline=keep_newline
    )
    if not text and not bos:
        raise InvalidInput(
            "The prompt is empty.", "Give some text, or --bos to start from the end-of-text token."
        )
    loaded = load_model(model, console)
    params, prompt_tokens, result = _compute(loaded, text, given, sampling, count, bos)
    if console.json_output:
        console.record(_record(loaded, params, prompt_tokens, result))
    else:
        from llmcli.terminal.next import next_table

        console.render(next_table(result, loaded.token_bytes))


def _compute(
    model: LanguageModel,
    text: str,
    given: dict[str, Any],
    sampling: SamplingOptions,
    count: int,
    bos: bool,
) -> tuple[SamplingParams, int, NextToken]:
    from llmcli.tasks.next import next_token
    from llmcli.tasks.prompts import (
        encode_prompt,
        prepare_prompt,
        sampling_params,
    )

    given = {**given, **sampling.by_token(model), "max_new_tokens": None, "num_beams": 1}
    params = sampling_params(model, given)
    ids = encode_prompt(model, text, bos=bos, overflow=params.overflow)
    prompt = prepare_prompt(model, ids, params, room=0)
    result = next_token(model.decoder(), prompt, params, count=count, eos_ids=model.eos_ids)
    return params, len(ids), result


def _record(
    model: LanguageModel, params: SamplingParams, prompt_tokens: int, result: NextToken
) -> dict[str, Any]:
    from llmcli.tasks.provenance import provenance, settings_record

    candidates = []
    for each in result.candidates:
        data = model.token_bytes(each.id)
        sampled = each.sampled_logprob
        candidates.append(
            {
                "id": each.id,
                "token": data.decode("utf-8", "replace"),
                "bytes": list(data),
                "probability": math.exp(each.logprob),
                "logprob": each.logprob,
                "sampled_probability": 0.0 if sampled is None else math.exp(sampled),
                "sampled_logprob": sampled,
            }
        )
    return {
        "candidates": candidates,
        "entropy": result.entropy,
        "filters": [
            {
                "name": each.name,
                "value": each.value,
                "kept": each.kept,
                "mass": each.mass,
                "entropy": each.entropy,
            }
            for each in result.filters
        ],
        "prompt_tokens": prompt_tokens,
        **provenance(model),
        "sampling": settings_record(params),
    }

"""``llmcli rank``: which of several continuations is the likeliest."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import click

from llmcli.cli.batch import BatchOptions, batch_options, run_batch
from llmcli.cli.help import command
from llmcli.cli.options import (
    InputOptions,
    calibration_option,
    input_options,
    load_model,
    model_options,
    output_options,
    refuse_idle,
)
from llmcli.errors import InvalidInput
from llmcli.io.prompts import read_prompt
from llmcli.io.sources import check_argument
from llmcli.models.options import LoadOptions
from llmcli.scoring.statistics import Normalize
from llmcli.tasks.rank import RankRequest, rank_choices, rank_records
from llmcli.terminal.console import Console
from llmcli.terminal.rank import rank_table

if TYPE_CHECKING:
    from llmcli.models.calibration_file import FittedTemperature
    from llmcli.tasks.batch import Verb


@command()
@click.argument("choices", nargs=-1, metavar="CHOICE...")
@batch_options()
@click.option(
    "--choices-field",
    default="choices",
    show_default=True,
    help="Field that holds the list of choices, if no CHOICE is given.",
)
@click.option("--prompt", help="Text before the choices; '-' is stdin.  [default: stdin]")
@click.option(
    "--normalize",
    type=click.Choice(get_args(Normalize)),
    default="none",
    show_default=True,
    help="Rank by log-likelihood (none), per token, per byte, or less that without the "
    "prompt (pmi).",
)
@click.option(
    "--delimiter",
    help="Text between prompt and choice.  [default: a space, unless either has white space there]",
)
@click.option(
    "--bos/--no-bos",
    default=None,
    help="Put the begin-of-text token before the prompt.  [default: as the tokenizer does]",
)
@calibration_option
@input_options
@model_options
@output_options
def rank(
    choices: tuple[str, ...],
    batch: BatchOptions,
    choices_field: str,
    prompt: str | None,
    normalize: Normalize,
    delimiter: str | None,
    bos: bool | None,
    calibration: FittedTemperature | None,
    inputs: InputOptions,
    model: LoadOptions,
    console: Console,
) -> None:
    """Rank continuations of a prompt by how likely a model finds them.

    -q prints only the first.

    \b
    Examples:
      llmcli rank --prompt "The capital of France is" Paris London Rome
      llmcli rank -q --prompt "Review: a dull film. Sentiment:" positive negative
      cat review.txt | llmcli rank --normalize pmi --json good bad
      llmcli rank --jsonl -i questions.jsonl -o ranked.jsonl
    """
    batch.check(inputs)
    for place, choice in enumerate(choices, 1):
        check_argument(choice, source=f"Choice {place}", errors=inputs.errors)
        if not choice:
            raise InvalidInput(f"Choice {place} is empty.", "Give each choice some text.")
    if batch.jsonl:
        refuse_idle("does not go with --jsonl", prompt="--prompt")
        request = RankRequest(
            prompt="", choices=choices, normalize=normalize, delimiter=delimiter, bos=bos
        )

        def load(console: Console) -> Verb:
            loaded = load_model(batch.placed(model), console, calibration=calibration)
            return rank_records(loaded, request, choices_field=choices_field)

        run_batch(batch, (), inputs, console, load)
        return
    refuse_idle("goes with --jsonl", choices_field="--choices-field")
    if not choices:
        raise InvalidInput("There is no choice.", "Give at least one.")
    parts = () if prompt is None else (prompt,)
    text = read_prompt(parts, inputs.files, notify=console.notice, errors=inputs.errors)
    request = RankRequest(
        prompt=text, choices=choices, normalize=normalize, delimiter=delimiter, bos=bos
    )
    answer = rank_choices(load_model(model, console, calibration=calibration), request)

    def show_json() -> None:
        console.record(answer.to_dict())

    def show_first() -> None:
        console.line(answer.ranked[0].choice)

    def show_table() -> None:
        console.render(rank_table(answer.choices(), normalize))

    console.choose(json=show_json, quiet=show_first, text=show_table)()

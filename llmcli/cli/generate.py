"""``llmcli generate``: continue a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from llmcli.cli.boundary import INTERRUPTED
from llmcli.cli.generate_run import GenerateOptions, PromptRun
from llmcli.cli.options import (
    InputOptions,
    input_options,
    load_model,
    model_options,
    output_options,
    refuse_idle,
)
from llmcli.cli.sampling_options import Ranged, SamplingOptions, sampling_options, seed_option
from llmcli.engine.params import SamplingParams
from llmcli.errors import InvalidInput
from llmcli.io.files import existing_parent
from llmcli.io.formats import FORMATS
from llmcli.io.prompts import read_prompt
from llmcli.io.records import sources
from llmcli.models.options import LoadOptions
from llmcli.tasks.prompts import check_combination, sampling_params
from llmcli.terminal.console import Console

if TYPE_CHECKING:
    from llmcli.engine.speculative import Draft
    from llmcli.models.language_model import LanguageModel


@click.command()
@click.argument("prompt", nargs=-1)
@sampling_options
@click.option(
    "--stop",
    multiple=True,
    metavar="TEXT",
    help=r"End before this text (\n is a newline); repeatable.",
)
@click.option("--keep-stop", is_flag=True, help="Print the stop text that was found.")
@click.option("--ignore-eos", is_flag=True, help="Never draw the end-of-text token.")
@click.option("--num-return-sequences", type=Ranged(int), help="How many continuations.")
@click.option("--num-beams", type=Ranged(int), help="Beam search over this many beams.")
@click.option(
    "--length-penalty",
    type=Ranged(float),
    help="Of beams: scores are divided by their length to this power.  [default: 1]",
)
@click.option(
    "--early-stopping",
    type=click.Choice(["true", "false", "never"]),
    help="Of beams: end with the first finished ones, by a guess, or when none can be better.",
)
@seed_option
@click.option(
    "--logprobs",
    type=Ranged(int),
    metavar="K",
    help="Log-probabilities and the K most likely tokens in JSON; tints on a terminal.",
)
@click.option(
    "--draft",
    metavar="ngram|int8|MODEL",
    help="Let something faster guess ahead; the text stays the same.",
)
@click.option("--heal", is_flag=True, help="Let the model re-divide the prompt's last token.")
@click.option("--bos", is_flag=True, help="Put the begin-of-text token first.")
@click.option(
    "--special",
    type=click.Choice(["text", "allow", "forbid"]),
    default="text",
    show_default=True,
    help="What '<|endoftext|>' and its like are in the prompt.",
)
@click.option("--echo/--no-echo", default=None, help="Print the prompt too.  [default: terminal]")
@click.option("-0", "--null", is_flag=True, help="End each continuation with NUL, not newline.")
@click.option(
    "--jsonl", is_flag=True, help="Each line of the input is a JSON object with a prompt in it."
)
@click.option(
    "--field", default="prompt", show_default=True, help="The prompt's name in a JSON object."
)
@click.option(
    "--batch-size",
    type=click.IntRange(1, 4096),
    metavar="N",
    help="Decode N continuations at once; the texts stay the same.  [default: 1; with --jsonl 8 "
    "where that is exact]",
)
@click.option(
    "--format",
    "input_format",
    type=click.Choice(FORMATS),
    help="Of the input, where its suffix does not tell; with --jsonl.",
)
@click.option(
    "--resume", is_flag=True, help="With --jsonl and -o: go on where a killed run stopped."
)
@click.option("--overwrite", is_flag=True, help="With --jsonl and -o: begin anew.")
@click.option(
    "--retry-errors", is_flag=True, help="With --jsonl and -o: make the error records again."
)
@click.option(
    "--context",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tokens that the model looks at.  [default: all that it can]",
)
@click.option("--stats", is_flag=True, help="Tokens, speed and memory on stderr.")
@click.option("--keep-newline", is_flag=True, help="Keep stdin's last newline.")
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    metavar="FILE",
    help="Write to a file; a batch is appended to it as it is made.",
)
@input_options
@model_options
@output_options
def generate(
    prompt: tuple[str, ...],
    sampling: SamplingOptions,
    inputs: InputOptions,
    model: LoadOptions,
    console: Console,
    **own: Any,
) -> None:
    """Continue a prompt.

    Several parts are joined with newlines; '-' is stdin's text at that place. Without a prompt,
    stdin is the prompt. With --jsonl every line of the input has one, and gets a JSON line.

    \b
    Examples:
      llmcli generate "Once upon a time"
      llmcli generate -n 40 --seed 7 --stop '\\n' "The old king said:"
      cat article.txt | llmcli generate - "TL;DR:"
      llmcli generate --json --logprobs 3 -n 5 "The sky is" | jq .tokens
      llmcli generate --jsonl --batch-size 8 --seed 1 -i prompts.jsonl > texts.jsonl
      llmcli generate --jsonl -i prompts.csv --field question -o answers.jsonl --resume
    """
    options = GenerateOptions(**own)
    if options.jsonl:
        refuse_idle("does not go with --jsonl", null="-0", keep_newline="--keep-newline")
    else:
        refuse_idle("goes with --jsonl", field="--field")
    if console.json_output:
        refuse_idle("does not go with --json", null="-0")
    given = {**sampling.given(), **options.given()}
    # All that can be wrong with the call is found before anything heavy is imported.
    check_combination(SamplingParams(**given))
    if options.draft and options.num_beams:
        raise InvalidInput("A draft does not work with beam search.", "Leave one of them out.")
    _check_batch(options)
    if options.output is not None:
        existing_parent(options.output, inputs=inputs.files)
    run = _run_batch if options.jsonl else _run_prompt
    if run(prompt, given, sampling, inputs, model, console, options):
        raise SystemExit(INTERRUPTED)


def _check_batch(options: GenerateOptions) -> None:
    """Raise InvalidInput for what only a batch into a file has."""
    if options.input_format and not options.jsonl:
        raise InvalidInput("--format is for --jsonl.", "Leave it out, or add --jsonl.")
    asked = [name for name in ("resume", "overwrite", "retry_errors") if getattr(options, name)]
    if len(asked) > 1:
        raise InvalidInput("--resume, --overwrite and --retry-errors exclude each other.", "")
    if asked and not (options.jsonl and options.output):
        flag = asked[0].replace("_", "-")
        raise InvalidInput(f"--{flag} is for a batch into a file.", "Add --jsonl and -o FILE.")


def _run_prompt(
    parts: tuple[str, ...],
    given: dict[str, Any],
    sampling: SamplingOptions,
    inputs: InputOptions,
    model: LoadOptions,
    console: Console,
    options: GenerateOptions,
) -> bool:
    """Continue one prompt; whether Ctrl-C cut it short."""
    text = read_prompt(
        parts,
        inputs.files,
        notify=console.notice,
        errors=inputs.errors,
        keep_newline=options.keep_newline,
    )
    if not text and not options.bos:
        raise InvalidInput(
            "The prompt is empty.", "Give some text, or --bos to start from the end-of-text token."
        )
    if text.endswith(" ") and not options.heal:
        console.notice(
            "The prompt ends in a space, which belongs to the next token: leave it out or "
            "pass --heal."
        )
    loaded = _load(model, console, options)
    params = sampling_params(loaded, {**given, **sampling.by_token(loaded)})
    draft = _draft(options, loaded, model, console)
    return PromptRun(loaded, params, options, console, draft, text).write()


def _run_batch(
    parts: tuple[str, ...],
    given: dict[str, Any],
    sampling: SamplingOptions,
    inputs: InputOptions,
    model: LoadOptions,
    console: Console,
    options: GenerateOptions,
) -> bool:
    """Continue the prompts of a batch; whether Ctrl-C cut it short."""
    from llmcli.cli.generate_batch import BatchRun, stored_seed

    if len(parts) > 1:
        raise InvalidInput("--jsonl takes one argument.", "Give the lines through -i FILE or '-'.")
    found = sources(parts[0] if parts else None, inputs.files, notify=console.notice)
    loaded = _load(model, console, options)
    if options.seed is None and (options.resume or options.retry_errors):
        given = {**given, "seed": stored_seed(options.output or "")}
    params = sampling_params(loaded, {**given, **sampling.by_token(loaded)})
    draft = _draft(options, loaded, model, console)
    batch = BatchRun(loaded, params, options, console, draft, found, inputs.errors)
    return batch.write()


def _load(model: LoadOptions, console: Console, options: GenerateOptions) -> LanguageModel:
    loaded = load_model(model, console)
    if options.context is not None:
        loaded.limit_context(options.context)
    return loaded


def _draft(
    options: GenerateOptions, loaded: LanguageModel, model: LoadOptions, console: Console
) -> Draft | None:
    from llmcli.tasks.generate import make_draft

    if options.draft is None:
        return None
    return make_draft(options.draft, loaded, lambda name: load_model(model.of(name), console))

"""``llmcli calibrate``: whether a model's probabilities are right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from llmcli.cli.options import (
    InputOptions,
    input_options,
    load_model,
    model_options,
    output_options,
)
from llmcli.io.files import existing_parent
from llmcli.io.records import records, sources
from llmcli.models.options import LoadOptions
from llmcli.terminal.console import Console


@click.command()
@click.argument("text", required=False)
@click.option(
    "--bins", type=int, default=15, show_default=True, help="Bins of confidence, of equal width."
)
@click.option(
    "--holdout",
    type=float,
    default=0.5,
    show_default=True,
    help="Share of the text that the temperature is not fitted on.",
)
@click.option("--context", type=click.IntRange(min=1), help="Tokens in a window.")
@click.option("--stride", type=int, help="Tokens from one window to the next.")
@click.option(
    "--bos/--no-bos",
    default=None,
    help="Begin-of-text before the first token, which otherwise is not scored.",
)
@click.option("--save", metavar="FILE", help="Keep the temperature for --calibration.")
@input_options
@model_options
@output_options
def calibrate(
    text: str | None,
    save: str | None,
    inputs: InputOptions,
    model: LoadOptions,
    console: Console,
    **settings: Any,
) -> None:
    """Measure whether a model's probabilities are right: of what it is 70 % sure, does 70 % come?

    The text is TEXT, or the files given with -i, or stdin; any size will do. Every figure comes
    with what it would be by chance or an interval. -q prints the expected calibration error.
    docs/calibration.md has the formulas.

    \b
    Examples:
      llmcli calibrate -i chapter.txt
      llmcli calibrate --bins 20 --json -i chapter.txt
      llmcli calibrate --save story.toml -i chapter.txt
    """
    from llmcli.tasks.calibrate import calibrate as measure
    from llmcli.tasks.calibrate import calibration_record

    target = None if save is None else existing_parent(save, inputs=inputs.files)
    found = sources(text, inputs.files, notify=console.notice)
    for source in found:
        source.check()
    loaded = load_model(model, console)

    def parts() -> Iterator[str]:
        for record in records(found, kind="whole", errors=inputs.errors):
            yield from record.parts

    result, convention = measure(loaded, parts(), **settings)
    if console.json_output:
        from llmcli.tasks.provenance import provenance

        console.record({**calibration_record(result, convention), **provenance(loaded)})
    elif console.quiet:
        console.line(f"{result.ece:.6g}")
    else:
        from llmcli.terminal.calibrate import calibration_view

        console.render(calibration_view(calibration_record(result, convention)))
    if target is not None:
        from llmcli.tasks.calibrate import save_temperature

        save_temperature(target, loaded, result, [source.label for source in found])

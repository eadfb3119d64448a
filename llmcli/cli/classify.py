"""``llmcli classify``: which of some labels fits a text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import click

from llmcli.cli.batch import BatchOptions, batch_options, run_batch
from llmcli.cli.help import command
from llmcli.cli.label_options import LabelOptions, Labels, label_options
from llmcli.cli.options import (
    InputOptions,
    files,
    input_options,
    load_model,
    model_options,
    output_options,
    refuse_idle,
)
from llmcli.errors import InvalidInput
from llmcli.io.prompts import read_prompt
from llmcli.io.records import Columns, Record, Source, rows_at_hand
from llmcli.io.sources import STDIN
from llmcli.models.options import LoadOptions
from llmcli.tasks.labels import Correction, LabelTask, label_notices
from llmcli.terminal.console import Console

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel
    from llmcli.tasks.batch import Verb
    from llmcli.tasks.calibrate_labels import SavedLabels
    from llmcli.tasks.classify import Decision, FirstPass

_LOOKS_AT_INPUTS = ("batch", "domain")
_SAID_BY_A_FILE = {
    "labels": "--labels",
    "correct": "--correct",
    "prior_from": "--prior-from",
    "template": "--template",
    "shots": "--shots",
    "delimiter": "--delimiter",
    "bos": "--bos",
    "domain_prompt": "--domain-prompt",
    "gamma": "--gamma",
}


@command()
@click.argument("text", required=False)
@click.option("--labels", type=Labels(), help="Two or more labels, separated by commas.")
@click.option(
    "--correct",
    type=click.Choice(get_args(Correction)),
    default="none",
    show_default=True,
    help="How to correct the labels' probabilities for bias.",
)
@click.option(
    "--prior-from",
    metavar="FILE",
    shell_complete=files,
    help="Records from which batch and domain estimate the bias.  [default: the input itself]",
)
@click.option(
    "--calibration",
    metavar="FILE",
    shell_complete=files,
    help="Use the labels, prompt, correction and fit in a file written by 'calibrate "
    "--labels --save'.",
)
@click.option(
    "--alpha",
    type=float,
    help="With --calibration: print sets of labels, of which this fraction may miss the "
    "right label.",
)
@label_options()
@batch_options(
    field="input", jsonl="Read records with a text each: JSON Lines, CSV, TSV or Parquet."
)
@input_options
@model_options
@output_options
def classify(
    text: str | None,
    labels: tuple[str, ...] | None,
    correct: Correction,
    prior_from: str | None,
    calibration: str | None,
    alpha: float | None,
    asked: LabelOptions,
    batch: BatchOptions,
    inputs: InputOptions,
    model: LoadOptions,
    console: Console,
) -> None:
    """Choose the label that fits a text, by how likely each label is after it.

    Give the text as TEXT, in a file or on stdin; with --jsonl every record has one. -q prints
    the label alone. docs/calibration.md explains the corrections, and how to choose one.

    \b
    Examples:
      llmcli classify --labels positive,negative "The film is a delight."
      llmcli classify --labels yes,no --template "{input}\\nIs this about food?" -i note.txt
      llmcli classify --labels a,b --jsonl --correct batch -i texts.jsonl -o labels.jsonl
      llmcli classify --calibration reviews.toml --alpha 0.1 "A film."
    """
    batch.check(inputs)
    saved: SavedLabels | None = None
    if calibration is not None:
        from llmcli.tasks.calibrate_labels import SavedLabels

        refuse_idle("does not go with --calibration, which says it", **_SAID_BY_A_FILE)
        saved = SavedLabels.read(calibration, alpha=alpha)
        task = saved.task
    else:
        refuse_idle("goes with --calibration", alpha="--alpha")
        if labels is None:
            raise InvalidInput("There are no labels.", "Name them: --labels positive,negative.")
        _check(correct, prior_from, batch, inputs)
        task = asked.task(labels, Columns(text=batch.field))
    call = _Call(task, correct, asked, prior_from, batch, inputs, saved)
    if batch.jsonl:

        def load(console: Console) -> Verb:
            return call.verb(call.load(batch.placed(model), console), console)

        run_batch(batch, () if text is None else (text,), inputs, console, load)
        return
    parts = () if text is None else (text,)
    whole = read_prompt(parts, inputs.files, notify=console.notice, errors=inputs.errors)
    if not whole:
        raise InvalidInput("The text is empty.", "Give some text.")
    loaded = call.load(model, console)
    from llmcli.tasks.classify import classify as label

    decision, _ = call.decide(loaded, console)
    answer = label(loaded, task, whole, decision)

    def show_json() -> None:
        console.record(answer.to_dict())

    def show_label() -> None:
        console.line(answer.prediction)

    def show_table() -> None:
        from llmcli.terminal.classify import label_table

        console.render(label_table(answer))

    console.choose(json=show_json, quiet=show_label, text=show_table)()


def _check(
    correct: Correction, prior_from: str | None, batch: BatchOptions, inputs: InputOptions
) -> None:
    """Raise InvalidInput where a correction has nothing to look at, or an option nothing to do."""
    if correct == "none":
        refuse_idle("goes with --correct", gamma="--gamma")
    if correct != "pmi":
        refuse_idle("goes with --correct pmi", domain_prompt="--domain-prompt")
    if correct not in _LOOKS_AT_INPUTS:
        if prior_from is not None:
            refuse_idle("goes with --correct batch or domain", prior_from="--prior-from")
    elif prior_from is not None:
        Source(prior_from).check()
    elif not batch.jsonl:
        raise InvalidInput(
            f"--correct {correct} looks at many inputs.", "Name some with --prior-from FILE."
        )
    elif not inputs.files or STDIN in inputs.files:
        raise InvalidInput(
            f"--correct {correct} reads the input twice, and stdin can be read once.",
            "Give a file with -i, or other inputs with --prior-from FILE.",
        )


@dataclass(frozen=True, slots=True)
class _Call:
    """What was asked for."""

    task: LabelTask
    correct: Correction
    asked: LabelOptions
    prior_from: str | None
    batch: BatchOptions
    inputs: InputOptions
    saved: SavedLabels | None

    def load(self, options: LoadOptions, console: Console) -> LanguageModel:
        """The model, with what there is to say of the labels on stderr."""
        loaded = load_model(options, console)
        if self.saved is not None:
            self.saved.check(loaded)
        for text in label_notices(loaded.tokenizer, self.task):
            console.notice(text)
        return loaded

    def decide(self, model: LanguageModel, console: Console) -> tuple[Decision, FirstPass | None]:
        """What the correction takes out, and the scores that it was found with."""
        if self.saved is not None:
            return self.saved.decision, None
        from llmcli.tasks.classify import decide
        from llmcli.terminal.progress import count_progress

        with count_progress(console, "inputs read for the prior") as show:
            return decide(
                model,
                self.task,
                self.correct,
                gamma=self.asked.gamma,
                domain=self.asked.domain_prompt,
                inputs=self._looked_at(),
                on_input=show,
            )

    def _looked_at(self) -> Iterator[Record]:
        names = self.inputs.files if self.prior_from is None else (self.prior_from,)
        found = rows_at_hand(
            [Source(name) for name in names],
            columns=self.batch.columns,
            errors=self.inputs.errors,
            asked=self.batch.input_format if self.prior_from is None else None,
        )
        return (record for record in found if record is not None)

    def verb(self, model: LanguageModel, console: Console) -> Verb:
        """A batch of records."""
        from llmcli.tasks.classify import classify_records

        decision, seen = self.decide(model, console)
        return classify_records(
            model,
            self.task,
            decision,
            seen=seen if self.prior_from is None else None,
            notify=console.notice,
        )

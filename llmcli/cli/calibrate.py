"""``llmcli calibrate``: whether a model's probabilities are right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from llmcli.cli.help import command
from llmcli.cli.label_options import LabelOptions, label_options
from llmcli.cli.options import (
    InputOptions,
    files,
    input_options,
    load_model,
    model_options,
    output_options,
    refuse_idle,
)
from llmcli.cli.sampling_options import SamplingOptions, seed_option, shape_options
from llmcli.engine.params import SamplingParams
from llmcli.errors import BatchHadErrors, InvalidInput
from llmcli.extras import missing_package
from llmcli.io.files import existing_parent
from llmcli.io.records import Columns, Record, Source, records, rows_at_hand, sources, whole_size
from llmcli.models.options import LoadOptions
from llmcli.tasks.labels import Correction, label_notices
from llmcli.tasks.prompts import new_seed
from llmcli.tasks.templates import labelled
from llmcli.terminal.console import Console

if TYPE_CHECKING:
    from rich.console import RenderableType

# Characters of a text whose tokens are counted to say how far it is.
_SAMPLE = 8192

# Error records that are told one by one.
_TOLD = 3


@command()
@click.argument("text", required=False)
@click.option(
    "--bins",
    type=int,
    default=15,
    show_default=True,
    help="Number of confidence bins, of equal width.",
)
@click.option(
    "--holdout",
    type=float,
    default=0.5,
    show_default=True,
    help="Fraction of the text, or of the inputs, to hold out from the fit.",
)
@click.option(
    "--context",
    type=click.IntRange(min=1),
    help="Tokens in a window.  [default: the model's context]",
)
@click.option(
    "--stride", type=int, help="Tokens by which windows advance.  [default: half the context]"
)
@click.option(
    "--bos/--no-bos",
    default=None,
    help="Put the begin-of-text token first; without it, the first token is not scored.",
)
@click.option(
    "--save",
    metavar="FILE",
    shell_complete=files,
    help="Save what was fitted, to use with --calibration.",
)
@click.option(
    "--html",
    metavar="FILE",
    shell_complete=files,
    help="Write a self-contained web page.",
)
@click.option(
    "--png", metavar="FILE", shell_complete=files, help="Write a picture (PNG); needs matplotlib."
)
@click.option(
    "--labels",
    metavar="FILE",
    shell_complete=files,
    help="Calibrate 'classify' on the labelled records in this file.",
)
@click.option("--generations", is_flag=True, help="Measure what the model itself writes.")
@click.option(
    "--samples",
    type=click.IntRange(2, 100_000),
    default=64,
    show_default=True,
    help="With --generations: number of continuations.",
)
@click.option(
    "--length",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="With --generations: tokens per continuation.",
)
@click.option(
    "--prompt-tokens",
    type=click.IntRange(min=0),
    default=32,
    show_default=True,
    help="With --generations: tokens per prompt; 0 starts from the begin-of-text token alone.",
)
@click.option("--jsonl", is_flag=True, help="With --generations: read records with a prompt each.")
@click.option(
    "--continuation-field",
    default="continuation",
    show_default=True,
    help="With --jsonl: field that holds what a person wrote after the prompt.",
)
@click.option(
    "--match",
    type=click.Choice(["entropy"]),
    help="With --generations: find the setting at which the entropy equals the log loss on "
    "the text.",
)
@click.option(
    "--match-with",
    type=click.Choice(["temperature", "min-p"]),
    default="temperature",
    show_default=True,
    help="With --match: the setting to adjust.",
)
@shape_options
@seed_option
@click.option(
    "--correct",
    type=click.Choice(get_args(Correction)),
    default="none",
    show_default=True,
    help="With --labels: correction to apply before the fit.",
)
@click.option(
    "--alpha",
    type=float,
    default=0.1,
    show_default=True,
    help="With --labels: fraction of label sets that may miss the right label.",
)
@click.option(
    "--field",
    help="Field that holds the text.  [default: input; with --generations: prompt]",
)
@label_options(bos=False)
@input_options
@model_options
@output_options
def calibrate(
    text: str | None,
    inputs: InputOptions,
    asked: LabelOptions,
    sampling: SamplingOptions,
    model: LoadOptions,
    console: Console,
    save: str | None,
    **own: Any,
) -> None:
    """Check a model's probabilities: when 70 % sure, is it right 70 % of the time?

    Give the text as TEXT, in files (-i) or on stdin; it may be of any size. Every figure comes
    with an interval, or with what it would be by chance. -q prints the expected calibration error.

    With --labels it measures the probabilities of labels, as 'classify' gives them.

    With --generations it measures what the model writes: does its entropy stay that of the text,
    or drift away? For that, the text is cut into prompts and their continuations.

    docs/calibration.md has the formulas.

    \b
    Examples:
      llmcli calibrate -i chapter.txt
      llmcli calibrate --bins 20 --json -i chapter.txt
      llmcli calibrate --save story.toml --html story.html -i chapter.txt
      llmcli calibrate --generations --match entropy -i chapter.txt
      llmcli calibrate --labels reviews.jsonl --template "{input}\\nSentiment:" --save reviews.toml
    """
    target = None if save is None else existing_parent(save, inputs=inputs.files)
    pictures = _Pictures(
        *(
            None if own[name] is None else existing_parent(own[name], inputs=inputs.files)
            for name in ("html", "png")
        )
    )
    _refuse_others(own)
    if pictures.png is not None and find_spec("matplotlib") is None:
        raise missing_package("A picture", "pictures")
    call = _Call(inputs, asked, model, console, target, pictures, own)
    if own["generations"]:
        call.generations(text, sampling)
    elif own["labels"] is None:
        call.tokens(text)
    else:
        if text is not None or inputs.files:
            raise InvalidInput("--labels names the input.", "Leave out the text and -i.")
        call.labels(own["labels"])


def _refuse_others(own: Mapping[str, Any]) -> None:
    """Refuse what goes with another kind of calibration."""
    if own["generations"]:
        if own["labels"] is not None:
            raise InvalidInput("--generations and --labels exclude each other.", "Give one.")
        refuse_idle("does not go with --generations", **_WINDOW_FLAGS, save="--save")
        refuse_idle("does not go with --generations", bins="--bins", holdout="--holdout")
        refuse_idle("goes with --labels", **_LABEL_FLAGS)
        if not own["jsonl"]:
            refuse_idle("goes with --jsonl", continuation_field="--continuation-field")
            refuse_idle("goes with --jsonl", field="--field")
        if own["match"] is None:
            refuse_idle("goes with --match", match_with="--match-with")
        return
    refuse_idle("goes with --generations", **_GENERATION_FLAGS)
    if own["labels"] is None:
        refuse_idle("goes with --labels", **_LABEL_FLAGS, field="--field")
    else:
        refuse_idle("does not go with --labels", **_WINDOW_FLAGS, html="--html", png="--png")


_WINDOW_FLAGS = {"context": "--context", "stride": "--stride"}
_GENERATION_FLAGS = {
    name: f"--{name.replace('_', '-')}"
    for name in (
        "samples",
        "length",
        "prompt_tokens",
        "jsonl",
        "continuation_field",
        "match",
        "match_with",
        "seed",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "top_h",
        "epsilon_cutoff",
        "eta_cutoff",
    )
}
_LABEL_FLAGS = {
    "correct": "--correct",
    "alpha": "--alpha",
    "template": "--template",
    "shots": "--shots",
    "label_field": "--label-field",
    "delimiter": "--delimiter",
    "domain_prompt": "--domain-prompt",
    "gamma": "--gamma",
}


@dataclass(frozen=True, slots=True)
class _Pictures:
    """Where to draw what was found."""

    html: Path | None
    png: Path | None

    def write(self, record: Mapping[str, Any]) -> None:
        """Draw a record as --json prints it."""
        if self.html is None and self.png is None:
            return
        from llmcli.terminal.calibration_page import write_page, write_picture

        if self.html is not None:
            write_page(self.html, record)
        if self.png is not None:
            write_picture(self.png, record)


@dataclass(frozen=True, slots=True)
class _Call:
    """What was asked for."""

    inputs: InputOptions
    asked: LabelOptions
    model: LoadOptions
    console: Console
    save: Path | None
    pictures: _Pictures
    own: Mapping[str, Any]

    def _show(
        self,
        record: dict[str, Any],
        figure: float | None,
        view: Callable[[dict[str, Any]], RenderableType],
    ) -> None:
        """Write what was found: a record, under --quiet its main figure, or a table."""
        console = self.console

        def show_figure() -> None:
            console.line("" if figure is None else f"{figure:.6g}")

        console.choose(
            json=lambda: console.record(record),
            quiet=show_figure,
            text=lambda: console.render(view(record)),
        )()

    def tokens(self, text: str | None) -> None:
        """Calibration of a text's tokens."""
        from llmcli.system import keep_freed_memory
        from llmcli.tasks.calibrate import calibrate, calibration_record, save_temperature

        console = self.console
        found = sources(text, self.inputs.files, notify=console.notice)
        for source in found:
            source.check()
        loaded = load_model(self.model, console)
        keep_freed_memory()

        size = whole_size(found)

        def parts() -> Iterator[str]:
            for record in records(found, kind="whole", errors=self.inputs.errors):
                for part in record.parts:
                    if console.shows_progress and part and size and show.total is None:
                        some = part[:_SAMPLE]
                        each = len(loaded.tokenizer.ids(some)) / len(some.encode())
                        show.total = size * each
                    yield part

        from llmcli.tasks.provenance import provenance
        from llmcli.terminal.progress import count_progress

        names = ("bins", "holdout", "context", "stride", "bos")
        with count_progress(console, "tokens") as show:
            result, convention = calibrate(
                loaded, parts(), **{name: self.own[name] for name in names}, on_tokens=show
            )
        record = {**calibration_record(result, convention), **provenance(loaded)}
        self.pictures.write(record)

        from llmcli.terminal.calibrate import calibration_view

        self._show(record, result.ece, calibration_view)
        if self.save is not None:
            save_temperature(self.save, loaded, result, [source.label for source in found])

    def generations(self, text: str | None, sampling: SamplingOptions) -> None:
        """Calibration of what the model writes."""
        from llmcli.tasks.calibrate_generations import (
            GenerationsRequest,
            calibrate_generations,
            cut_text,
            from_nothing,
            read_prompts,
        )
        from llmcli.terminal.progress import count_progress

        console, own = self.console, self.own
        seed = new_seed() if own["seed"] is None else own["seed"]
        request = GenerationsRequest(
            params=SamplingParams(**sampling.given(), seed=seed),
            samples=own["samples"],
            length=own["length"],
            match=None if own["match"] is None else own["match_with"].replace("-", "_"),
        )
        found = None
        if text is not None or self.inputs.files:
            found = sources(text, self.inputs.files, notify=console.notice)
            for source in found:
                source.check()
        loaded = load_model(self.model, console)
        if found is None:
            prompts = from_nothing(loaded)
        elif own["jsonl"]:
            columns = Columns(text=own["field"] or "prompt")
            rows = rows_at_hand(found, columns=columns, errors=self.inputs.errors)
            kept = islice((row for row in rows if row is not None), request.samples)
            prompts = list(read_prompts(loaded, kept, after_field=own["continuation_field"]))
            if not prompts:
                raise InvalidInput("There is no prompt in the input.", "Give at least one.")
        else:
            whole = records(found, kind="whole", errors=self.inputs.errors)
            prompts = cut_text(
                loaded,
                (part for record in whole for part in record.parts),
                prompt_tokens=own["prompt_tokens"],
                length=request.length,
                most=request.samples,
            )
        # With --match it is not known how often they are drawn.
        total = None if request.match else len(prompts) * request.length
        with count_progress(console, "tokens drawn", total) as show:
            answer = calibrate_generations(loaded, prompts, request, on_tokens=show)
        record = answer.to_dict()
        self.pictures.write(record)

        from llmcli.terminal.calibrate_generations import generations_view

        self._show(record, answer.overall.entce, generations_view)

    def labels(self, name: str) -> None:
        """Calibration of the labels of inputs."""
        from llmcli.tasks.calibrate_labels import (
            LabelCalibrationRequest,
            LabelledInput,
            calibrate_labels,
            save_labels,
        )
        from llmcli.terminal.progress import count_progress

        console, own, asked = self.console, self.own, replace(self.asked, bos=self.own["bos"])
        request = LabelCalibrationRequest(
            correct=own["correct"],
            gamma=asked.gamma,
            domain=asked.domain_prompt,
            holdout=own["holdout"],
            alpha=own["alpha"],
            bins=own["bins"],
        )
        source, columns = Source(name), Columns(text=own["field"] or "input")
        source.check()
        wrong = _Wrong(console)
        known = []
        for record, label in labelled(source, columns, asked.label_field):
            if isinstance(label, InvalidInput):
                wrong.tell(record, label)
            else:
                known.append(LabelledInput(record=record, label=label))
        task = asked.task(sorted({each.label for each in known}), columns)
        loaded = load_model(self.model, console)
        for text in label_notices(loaded.tokenizer, task):
            console.notice(text)
        with count_progress(console, "inputs scored", len(known)) as show:
            result = calibrate_labels(
                loaded, task, known, request, on_error=wrong.tell, on_input=show
            )
        record_ = {**result.to_dict(), "errors": wrong.count}

        from llmcli.terminal.calibrate_labels import label_calibration_view

        self._show(record_, result.fitted.ece, label_calibration_view)
        if self.save is not None:
            save_labels(self.save, loaded, result)
        if wrong.count:
            raise BatchHadErrors(
                f"{wrong.count} of {wrong.count + sum(result.counts.values())} records were left "
                "out.",
                "Mend them.",
            )


@dataclass(slots=True)
class _Wrong:
    """Says what is wrong with records, the first few of them."""

    console: Console
    count: int = 0

    def tell(self, record: Record, error: InvalidInput) -> None:
        """Say it of one."""
        from llmcli.io.batch import placed

        self.count += 1
        if self.count <= _TOLD:
            self.console.notice(f"{placed(record, error).message} It is left out.")

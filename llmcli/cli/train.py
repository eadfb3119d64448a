"""``llmcli train``: text to a model, new or trained further."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmcli.cli.boundary import InterruptFlag
from llmcli.cli.help import command
from llmcli.cli.options import (
    files,
    folders,
    load_model,
    output_options,
    resolve_options,
    reworded,
    said,
    unescaped,
)
from llmcli.errors import InvalidInput
from llmcli.extras import missing_package
from llmcli.models.options import LoadOptions
from llmcli.reporting import working
from llmcli.terminal.console import Console
from llmcli.training.settings import (
    Adapter,
    ModelShape,
    OptimizerName,
    ScheduleName,
    StoredPrecision,
    TrainPrecision,
    TrainSettings,
)

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel
    from llmcli.training.result import Result

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Duration(click.ParamType[float]):
    """A number of seconds, or a number with ``s``, ``m`` or ``h`` after it."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(value))
        if not found:
            self.fail(f"{value!r} is no duration; write 90s, 30m or 2h.", param, ctx)
        return float(found[1]) * _UNITS[found[2] or "s"]


def _option(name: str, help: str, **more: Any) -> _Decorator:
    """Return an option whose default is the one of the dataclass field of the same name."""
    field = more.pop("field", name.removeprefix("--").replace("-", "_"))
    defaults = {each.name: each.default for each in (*fields(ModelShape), *fields(TrainSettings))}
    default = more.pop("default", defaults.get(field))
    shown = default is not None
    if shown and isinstance(more.get("type"), Duration):
        help, shown = f"{help}  [default: {default / 60:g}m]", False
    return click.option(name, field, help=help, default=default, show_default=shown, **more)


def _choice(literal: Any) -> click.Choice[str]:
    return click.Choice(literal.__args__)


_SIZE = (
    _option("--vocab-size", "Vocabulary size of a new tokenizer."),
    _option("--layers", "Layers of a new model (n_layer).", field="n_layer"),
    _option("--heads", "Attention heads per layer of a new model (n_head).", field="n_head"),
    _option("--width", "Hidden size of a new model (n_embd).", field="n_embd"),
    _option(
        "--context",
        "Context length of a new model (n_positions); with -m, of the training sequences, "
        "at most the model's.",
        field="n_positions",
    ),
)
_OF_A_NEW_MODEL = {
    "--vocab-size": "vocab_size",
    "--layers": "n_layer",
    "--heads": "n_head",
    "--width": "n_embd",
}
_LENGTH = (
    _option("--max-steps", "Stop after this many steps.", type=int),
    _option("--max-time", "Stop after this long: 90s, 30m, 2h.", type=Duration()),
    _option(
        "--epochs", "Passes over the text.  [default: 1, if nothing else ends the run]", type=float
    ),
    _option("--early-stopping", "Stop after this many evaluations without improvement.", type=int),
)
_LEARNING = (
    _option("--batch-size", "Sequences per batch, each as long as the context."),
    _option("--gradient-accumulation-steps", "Batches per step."),
    _option("--learning-rate", "Peak learning rate."),
    _option(
        "--optimizer",
        "Optimizer; muon trains the matrices with Muon and the rest with AdamW.",
        type=_choice(OptimizerName),
    ),
    _option("--schedule", "Schedule of the learning rate.", type=_choice(ScheduleName)),
    _option("--warmup", "Fraction of the run in which the learning rate rises."),
    _option("--decay", "Fraction of the run in which wsd lowers the learning rate."),
    _option("--weight-decay", "Weight decay of the matrices."),
    _option("--dropout", "Dropout probability."),
    _option("--max-grad-norm", "Clip gradients to this norm."),
    _option(
        "--grow-from",
        "Begin with sequences of this length, and double it up to --context.",
        type=int,
    ),
    _option("--validation", "Fraction of the text to hold out."),
    _option("--seed", "Seed of the weights, the order of the text and the held-out part."),
)
_MEANS = (
    _option("--precision", "Precision of the computation.", type=_choice(TrainPrecision)),
    _option("--store", "Precision of the stored weights.", type=_choice(StoredPrecision)),
    _option("--compile", "Compile the model: slower to start, then faster.", is_flag=True),
    _option("--gradient-checkpointing", "Use less memory and more time.", is_flag=True),
    _option("--evaluate-every", "Time between evaluations.", type=Duration()),
    _option("--save-every", "Time between checkpoints.", type=Duration()),
    _option("--sample-prompt", "Prompt of the samples."),
)


def _settings_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed((*_SIZE, *_LENGTH, *_LEARNING, *_MEANS)):
        function = option(function)
    return function


@command()
@click.argument("text", nargs=-1, required=True, metavar="TEXT...", shell_complete=files)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    shell_complete=folders,
    metavar="DIR",
    help="Folder to write the model to.",
)
@click.option(
    "--split-on", metavar="TEXT", help="Split text files into documents here (\\n is a newline)."
)
@click.option(
    "--card-notes",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Add this Markdown file to the model card.",
)
@click.option("--resume", is_flag=True, help="Carry on from the last checkpoint in DIR.")
@click.option("--overwrite", is_flag=True, help="Allow DIR to hold something already.")
@click.option("--lora", is_flag=True, help="Train low-rank adapters only; needs -m.")
@click.option("--lora-rank", default=8, show_default=True, help="Rank of the adapters.")
@click.option(
    "--lora-alpha", default=16.0, show_default=True, help="Scale of the adapters (alpha)."
)
@click.option("--merge", is_flag=True, help="Add the adapters to the weights at the end.")
@click.option(
    "--processes",
    default=1,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Share each step among this many processes.",
)
@_settings_options
@reworded(
    model="Model to train further: a Hub id, a folder, or the bundled fable.  "
    "[default: none; a new one is made]"
)
@resolve_options
@output_options
def train(
    text: tuple[str, ...],
    output: Path,
    processes: int,
    model: LoadOptions,
    console: Console,
    **options: Any,
) -> None:
    """Train a GPT-2 on text, or fine-tune another model.

    TEXT is files, folders (their .txt, .text and .jsonl files), or - for stdin. From a table
    (.jsonl, .csv, .tsv, .parquet) it takes the column "text". The result in DIR loads in any
    transformers program, and has a model card. To use several processes: --processes, torchrun
    or accelerate launch.

    \b
    Examples:
      llmcli train tales/ -o tales-model --max-time 30m
      llmcli train notes.txt -m gpt2 -o my-gpt2 --epochs 3 --learning-rate 1e-4
      llmcli train notes.txt -m gpt2 -o my-gpt2 --lora --merge --max-steps 500
      llmcli train tales/ -o tales-model --max-time 30m --resume

    Only -m on the command line fine-tunes a model; a default model in your settings does not.
    """
    from llmcli.io.sources import read_text
    from llmcli.training.processes import (
        alone_under_accelerate,
        command_line,
        under_launcher,
        workers,
    )

    shape, settings = _settings(options)
    named = said("model")
    if named:
        _check_shape_is_free()
    if options["lora"] and not named:
        raise InvalidInput("--lora adapts a model, and none is named.", "Name it with -m.")
    _require("accelerate")
    notes = read_text(options["card_notes"]) if options["card_notes"] else None
    command = command_line(sys.argv[1:])
    alone = processes == 1 or under_launcher()
    if alone and alone_under_accelerate():
        console.info("accelerate launch started one process; it starts several with --multi_gpu.")
    working("importing torch and accelerate")
    with nullcontext() if alone else workers(processes, sys.argv[1:]):
        from llmcli.training.run import Run

        run = Run(
            sources=text,
            output=output,
            settings=settings,
            shape=shape,
            base=_base(model, shape, console) if named else None,
            split_on=unescaped(options["split_on"]) if options["split_on"] else None,
            resume=options["resume"],
            overwrite=options["overwrite"],
            command=command,
            card_notes=notes,
        )
        _train(run, console)


def _require(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        raise missing_package(f"Training, for {library},", "train")


def _settings(options: dict[str, Any]) -> tuple[ModelShape, TrainSettings]:
    shape = ModelShape(**{each.name: options[each.name] for each in fields(ModelShape)})
    names = [each.name for each in fields(TrainSettings) if each.name in options]
    adapter = None
    if options["lora"]:
        adapter = Adapter(
            rank=options["lora_rank"], alpha=options["lora_alpha"], merge=options["merge"]
        )
    elif options["merge"]:
        raise InvalidInput("--merge adds adapters to the weights.", "Use it with --lora.")
    return shape, TrainSettings(**{name: options[name] for name in names}, adapter=adapter)


def _check_shape_is_free() -> None:
    """Refuse sizes of a new model beside a model that has its own.

    Raises:
        InvalidInput: one was given.
    """
    for flag, name in _OF_A_NEW_MODEL.items():
        if said(name):
            raise InvalidInput(
                f"{flag} is the size of a new model; the one that -m names has its own.",
                f"Leave out {flag}, or -m.",
            )


def _base(model: LoadOptions, shape: ModelShape, console: Console) -> LanguageModel:
    """Load the model to train further; what was said about its size must fit it."""
    base = load_model(replace(model, precision="float32"), console)
    if said("n_positions") and shape.n_positions > base.n_positions:
        raise InvalidInput(
            f"--context is {shape.n_positions}; {base.name} looks at {base.n_positions} tokens.",
            f"Use --context {base.n_positions} or less.",
        )
    return base


def _train(run: Any, console: Console) -> None:
    from llmcli.terminal.train import TrainingView
    from llmcli.training.processes import is_first_process
    from llmcli.training.train import train as train_model

    console.quiet = console.quiet or not is_first_process()
    with InterruptFlag() as interrupted, TrainingView(console).shown() as view:
        result = train_model(run, report=view, notify=console.info, interrupted=interrupted)
    if interrupted.set:
        console.info("Stopped; go on with --resume.")
        raise KeyboardInterrupt
    if result is not None:
        _show(result, console)


def _show(result: Result, console: Console) -> None:
    from llmcli.training.curve import draw_curve, metric

    losses = metric(result.records, "loss")
    held_out = metric(result.records, "validation_loss")
    width = max(20, min(60, console.width - 12))
    if lines := draw_curve(losses, beside=held_out, width=width, unit="tokens"):
        console.info("Loss, nats a token: • training" + (", ◦ held out" if held_out else ""))
    for line in lines:
        console.info(line)
    summary = result.summary()
    console.json_only(summary)
    console.text_only(
        f"{summary['model']}: {summary['parameters']:,} parameters, {summary['steps']} steps"
    )
    if result.validation is not None:
        console.text_only(
            f"held out: loss {result.validation.loss:.4f}, "
            f"perplexity {result.validation.perplexity:.2f}, "
            f"bits per byte {result.validation.bits_per_byte:.4f}"
        )
    if (result.folder / "loss.png").exists():
        console.info(f"The curve is in {result.folder / 'loss.png'}, the model card in README.md.")
    console.info(f"Try it: llmcli generate -m {shlex.quote(_as_path(result.folder))} 'Once upon'")


def _as_path(folder: Path) -> str:
    """A folder's name that is not taken for a model of the Hub."""
    return str(folder) if folder.is_absolute() else f"./{folder}"

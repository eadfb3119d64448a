"""llmcli train: text -> a model, from scratch or from another model."""

from __future__ import annotations

import re
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmcli.cli.options import output_options
from llmcli.errors import InvalidInput

if TYPE_CHECKING:
    from llmcli.terminal.console import Console

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class Duration(click.ParamType[float]):
    """Seconds, or a number with s, m or h after it."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return seconds."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(value))
        if not found:
            self.fail(f"{value!r} is no duration; write 90s, 30m or 2h.", param, ctx)
        return float(found[1]) * _UNITS[found[2] or "s"]


@click.command()
@click.argument("text", nargs=-1, required=True)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR")
@click.option("--vocab-size", "vocab_size", default=8192, show_default=True)
@click.option("--layers", "n_layer", default=6, show_default=True)
@click.option("--heads", "n_head", default=8, show_default=True)
@click.option("--width", "n_embd", default=256, show_default=True)
@click.option("--context", "n_positions", default=1024, show_default=True)
@click.option("--batch-size", default=8, show_default=True)
@click.option("--gradient-accumulation-steps", default=1, show_default=True)
@click.option("--learning-rate", default=1e-3, show_default=True)
@click.option("--optimizer", type=click.Choice(["adamw", "muon"]), default="adamw")
@click.option("--schedule", type=click.Choice(["cosine", "wsd", "constant"]), default="cosine")
@click.option("--warmup", default=0.02, show_default=True)
@click.option("--decay", default=0.5, show_default=True)
@click.option("--weight-decay", default=0.1, show_default=True)
@click.option("--dropout", default=0.0, show_default=True)
@click.option("--max-grad-norm", default=1.0, show_default=True)
@click.option("--max-steps", type=int)
@click.option("--max-time", type=Duration())
@click.option("--epochs", type=float)
@click.option("--grow-from", type=int)
@click.option("--validation", default=0.02, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--store", type=click.Choice(["auto", "float32", "float16", "bfloat16"]), default="float32")
@click.option("--compile/--no-compile", "compile", default=False)
@click.option("--evaluate-every", type=Duration(), default="5m", show_default=True)
@click.option("--save-every", type=Duration(), default="5m", show_default=True)
@click.option("--split-on")
@click.option("--processes", default=1, show_default=True, type=click.IntRange(1, 64))
@click.option("--resume", is_flag=True)
@click.option("--overwrite", is_flag=True)
@output_options
def train(
    text: tuple[str, ...], output: Path, processes: int, console: Console, **options: Any
) -> None:
    """Train a GPT-2 on text."""
    from llmcli.training.launch import under_launcher, workers
    from llmcli.training.settings import ModelShape, TrainSettings

    shape = ModelShape(**{name: options.pop(name) for name in ModelShape.__dataclass_fields__})
    runs = {name: options.pop(name) for name in ("split_on", "resume", "overwrite")}
    settings = TrainSettings(**options)
    alone = processes == 1 or under_launcher()
    with nullcontext() if alone else workers(processes, sys.argv[1:]):
        from llmcli.training.run import train as run

        run(
            text,
            output,
            settings=settings,
            shape=shape,
            command=shlex.join(["llmcli", *sys.argv[1:]]),
            report=lambda record: console.notice(str(record)),
            notify=console.notice,
            **runs,
        )

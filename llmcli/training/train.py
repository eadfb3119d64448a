"""One training run, from text to a folder that any transformers program loads."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import transformers
from accelerate import Accelerator, PartialState
from safetensors import SafetensorError
from transformers import PreTrainedModel

from llmcli.errors import OutOfMemory, is_out_of_memory
from llmcli.system import bounded_memory, keep_freed_memory
from llmcli.training.checkpoints import Checkpoint
from llmcli.training.data import Data, load_data
from llmcli.training.evaluation import QuickEvaluation
from llmcli.training.loop import TrainingLoop
from llmcli.training.metrics import MetricsLog, Report, cut_metrics
from llmcli.training.model import (
    add_adapter,
    new_model,
    prepare_for_training,
    set_dropout,
    training_precision,
)
from llmcli.training.pace import Pace
from llmcli.training.processes import LostProcess
from llmcli.training.room import cannot_write, check_room, is_failed_write
from llmcli.training.run import METRICS, Run, claimed, make_blocks, prepare
from llmcli.training.sample import Sampler
from llmcli.training.schedule import Progress
from llmcli.training.settings import TrainSettings
from llmcli.training.tokens import Blocks

if TYPE_CHECKING:
    from llmcli.training.result import Result

_ENDLESS = 10_000_000  # steps of a run that only the clock ends


def train(
    run: Run,
    *,
    report: Report = lambda record: None,
    notify: Callable[[str], None] = lambda sentence: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Result | None:
    """Train a model and write it; every process of the run calls this.

    Args:
        run: What to do.
        report: Gets each record of ``metrics.jsonl`` as it is written.
        notify: Gets a sentence now and then.
        interrupted: Asked after each step; true saves a checkpoint and stops.

    Returns:
        What was measured, in the first process; None in the others, and where it was interrupted.

    Raises:
        InvalidInput: the corpus, the folder or a setting cannot be used.
        StorageError: something cannot be read or written.
        NumericalError: the loss became NaN or infinite.
        OutOfMemory: a step does not fit.
    """
    keep_freed_memory()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # A GPU's driver reserves addresses far beyond what it uses.
    bounded = nullcontext() if torch.cuda.is_available() else bounded_memory(local)
    with _quiet_transformers(), _foreign_errors(run), bounded:
        state = PartialState(cpu=not torch.cuda.is_available())
        fresh = state.is_main_process and not run.resume
        # What a disk has against a file is asked before the folder is taken away again.
        with claimed(run) if fresh else nullcontext(), _foreign_errors(run):
            return _train(run, state, report=report, notify=notify, interrupted=interrupted)


def _train(
    run: Run,
    state: PartialState,
    *,
    report: Report,
    notify: Callable[[str], None],
    interrupted: Callable[[], bool],
) -> Result | None:
    if state.is_main_process:
        prepare(run, state.num_processes)
    state.wait_for_everyone()
    data = load_data(run.work)
    if state.is_main_process:
        notify(_described(data))
    checkpoint = run.checkpoints.last() if run.resume else None
    loop = _loop(run, data, checkpoint, report=report, interrupted=interrupted)
    if state.is_main_process:
        check_room(run.work, loop.module)
    if checkpoint is not None:
        if state.is_main_process:
            notify(f"Going on after step {checkpoint.step}.")
        loop.resume(checkpoint)
    loop.run()
    if loop.pace.was_interrupted or not state.is_main_process:
        return None
    from llmcli.training.result import finish

    return finish(run, data, loop, processes=state.num_processes, notify=notify)


def _loop(
    run: Run,
    data: Data,
    checkpoint: Checkpoint | None,
    *,
    report: Report,
    interrupted: Callable[[], bool],
) -> TrainingLoop:
    settings = run.settings
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")
    main = accelerator.is_main_process
    torch.manual_seed(settings.seed)
    blocks = make_blocks(run, data, accelerator.num_processes)
    progress = Progress(max_steps=_max_steps(settings, blocks), max_time=settings.max_time)
    if checkpoint is not None:
        progress.step, progress.elapsed = checkpoint.step, checkpoint.elapsed
    path = run.output / METRICS
    if main and run.resume:
        cut_metrics(path, after=progress.step)
    metrics = MetricsLog(
        path,
        progress=progress,
        tokens_per_step=blocks.blocks_per_step * run.context,
        grow_from=settings.grow_from,
        context=run.context,
        report=report,
        writes=main,
    )
    evaluation = QuickEvaluation(
        rows=data.validation_rows(run.context, settings.validation_tokens),
        bytes_per_token=sum(data.validation.sizes) / max(1, data.validation.tokens),
    )
    sampler = Sampler(
        data.tokenizer,
        start=data.end_of_text,
        prompt=settings.sample_prompt,
        context=run.context,
        progress=progress,
        report=report,
    )
    return TrainingLoop(
        accelerator=accelerator,
        model=_model(run, data),
        blocks=blocks,
        settings=settings,
        progress=progress,
        precision=training_precision(settings.precision, accelerator.device),
        pace=Pace(progress, settings, best=checkpoint.best if checkpoint else None),
        checkpoints=run.checkpoints,
        evaluation=evaluation,
        metrics=metrics,
        sampler=sampler,
        interrupted=interrupted,
    )


def _max_steps(settings: TrainSettings, blocks: Blocks) -> int:
    by_epochs = None
    if settings.epochs is not None:
        by_epochs = max(1, math.ceil(settings.epochs * blocks.steps_per_pass))
    bounds = [bound for bound in (settings.max_steps, by_epochs) if bound is not None]
    if bounds:
        return min(bounds)
    return _ENDLESS if settings.max_time else max(1, math.ceil(blocks.steps_per_pass))


def _model(run: Run, data: Data) -> PreTrainedModel:
    settings = run.settings
    if run.base is None:
        model = new_model(run.shape, dropout=settings.dropout, end_of_text=data.end_of_text)
    else:
        model = run.base.module
        set_dropout(model, settings.dropout)
    prepare_for_training(model, settings)
    if settings.adapter is not None:
        model = add_adapter(model, settings.adapter, dropout=settings.dropout)
    return model


def _described(data: Data) -> str:
    held = len(data.validation.names) if data.by_document else 0
    how = f"{held} whole document{'s' if held > 1 else ''}" if held else "the end of each document"
    return f"{data.train.tokens:,} tokens to train on; {data.validation.tokens:,} held out" + (
        f" ({how})." if data.validation.tokens else "."
    )


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers' lines and bars off stderr: the run reports for itself."""
    library: Any = transformers.utils.logging
    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity(library.CRITICAL)
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()


@contextmanager
def _foreign_errors(run: Run) -> Iterator[None]:
    """Say in our words what libraries say about memory, other processes and the disk."""
    try:
        yield
    except (OSError, RuntimeError, MemoryError, SafetensorError) as exc:
        if is_failed_write(exc):
            raise cannot_write(run.output, exc) from exc
        if is_out_of_memory(exc):
            raise OutOfMemory(
                "A training step does not fit into memory.",
                "Use a smaller --batch-size with --gradient-accumulation-steps, a smaller "
                "--context, or --gradient-checkpointing.",
            ) from exc
        if isinstance(exc, torch.distributed.DistError) or "gloo" in str(exc).lower():
            raise LostProcess(
                "Another process of the run has ended; its own message says why.",
                "Where there is a checkpoint, --resume goes on from it.",
            ) from exc
        raise

"""One training run, from text to a folder that any transformers program loads."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from accelerate import PartialState
from transformers import PreTrainedModel, TrainingArguments

from llmcli.errors import InvalidInput, OutOfMemory, is_out_of_memory
from llmcli.files import atomic_write
from llmcli.training.data import Data, load_data, prepare_data
from llmcli.training.launch import LostProcess
from llmcli.training.loop import LanguageTrainer
from llmcli.training.memory import keep_freed_memory
from llmcli.training.metrics import MetricsLog, Report, cut_metrics
from llmcli.training.model import (
    add_adapter,
    new_model,
    prepare_for_training,
    set_dropout,
    training_precision,
)
from llmcli.training.pace import Pace, last_checkpoint
from llmcli.training.sample import Sampler
from llmcli.training.schedule import Progress
from llmcli.training.settings import ModelShape, TrainSettings
from llmcli.training.tokens import Blocks

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel
    from llmcli.training.result import Result

WORK = "training"
METRICS = "metrics.jsonl"
_RUN = "run.json"
_ENDLESS = 10_000_000  # steps of a run that only the clock ends
_MAY_CHANGE = {"max_steps", "max_time", "epochs", "evaluate_every", "save_every", "store"}
_MAY_CHANGE |= {"early_stopping", "precision", "compile", "gradient_checkpointing", "sample_prompt"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What to train, on what, and where to.

    Attributes:
        sources: Files, folders, ``-``.
        output: The folder that becomes the model.
        settings: How.
        shape: Of a new model; of a given one only the context matters.
        base: The model to train further; None for a new one.
        split_on: As in :func:`llmcli.training.corpus.read_documents`.
        resume: Go on from the last checkpoint in ``output``.
        overwrite: ``output`` may hold something already.
        command: What the model card says made it.
    """

    sources: Sequence[str]
    output: Path
    settings: TrainSettings
    shape: ModelShape
    base: LanguageModel | None = None
    split_on: str | None = None
    resume: bool = False
    overwrite: bool = False
    command: str = ""

    @property
    def work(self) -> Path:
        """Where tokens and checkpoints are until the end."""
        return self.output / WORK

    @property
    def context(self) -> int:
        """Tokens of a sequence."""
        if self.base is None:
            return self.shape.n_positions
        return min(self.shape.n_positions, self.base.n_positions)

    def identity(self, processes: int) -> dict[str, Any]:
        """Return what must be the same when the run is resumed."""
        settings = {k: v for k, v in asdict(self.settings).items() if k not in _MAY_CHANGE}
        return {
            "settings": settings,
            "shape": asdict(self.shape),
            "base": self.base.name if self.base else None,
            "sources": list(self.sources),
            "split_on": self.split_on,
            "processes": processes,
        }


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
    with _quiet_transformers(), _foreign_errors():
        state = PartialState(cpu=not torch.cuda.is_available())
        if state.is_main_process:
            _prepare(run, state.num_processes)
        state.wait_for_everyone()
        data = load_data(run.work)
        if state.is_main_process:
            notify(_described(data))
        trainer = _trainer(run, data, report=report, interrupted=interrupted)
        checkpoint = last_checkpoint(run.work / "checkpoints") if run.resume else None
        if checkpoint is not None and state.is_main_process:
            notify(f"Going on after step {checkpoint.step}.")
        if trainer.pace.progress.fraction < 1:
            resume_from = str(checkpoint.folder) if checkpoint else None
            trainer.train(resume_from_checkpoint=resume_from)
        elif checkpoint is not None:
            trainer._load_from_checkpoint(str(checkpoint.folder))
        if trainer.pace.was_interrupted or not state.is_main_process:
            return None
        from llmcli.training.result import finish

        return finish(run, data, trainer, processes=state.num_processes, notify=notify)


def _prepare(run: Run, processes: int) -> None:
    """Check the folder and fill it with tokens, in the first process."""
    identity = json.loads(json.dumps(run.identity(processes)))
    if run.resume:
        data = load_data(run.work)
        before = json.loads((run.work / _RUN).read_text(encoding="utf-8"))
        changed = sorted(
            name
            for part in ("settings", "shape")
            for name in identity[part]
            if identity[part][name] != before[part].get(name)
        ) + sorted(
            k for k in ("base", "sources", "split_on", "processes") if identity[k] != before[k]
        )
        if changed:
            raise InvalidInput(
                f"The run in {run.output} was started with other values of {', '.join(changed)}.",
                "Resume it with the same command, or start another with --overwrite.",
            )
        del data
        return
    if run.output.exists() and not run.output.is_dir():
        raise InvalidInput(f"{run.output} is not a folder.", "Choose another --output.")
    if run.output.is_dir() and any(run.output.iterdir()) and not run.overwrite:
        raise InvalidInput(
            f"{run.output} is not empty.",
            "Choose another --output, go on with --resume, or replace it with --overwrite.",
        )
    shutil.rmtree(run.work, ignore_errors=True)
    run.work.mkdir(parents=True)
    base = None
    if run.base is not None:
        end_of_text = run.base.tokenizer.eos_id
        if end_of_text is None:
            raise InvalidInput(
                f"{run.base.name} has no end-of-text token to separate documents.",
                "Choose another model.",
            )
        base = run.base.tokenizer, end_of_text
    data = prepare_data(
        run.sources,
        run.work,
        settings=run.settings,
        vocab_size=run.shape.vocab_size,
        base=base,
        split_on=run.split_on,
    )
    _blocks(run, data, processes)  # too short a corpus is found before a model is built
    with atomic_write(run.work / _RUN) as out:
        out.write(json.dumps(identity).encode())
    with atomic_write(run.output / METRICS):
        pass


def _blocks(run: Run, data: Data, processes: int) -> Blocks:
    settings = run.settings
    return Blocks(
        data.train_ids,
        context=run.context,
        blocks_per_step=settings.batch_size * settings.gradient_accumulation_steps * processes,
        seed=settings.seed,
    )


def _trainer(
    run: Run, data: Data, *, report: Report, interrupted: Callable[[], bool]
) -> LanguageTrainer:
    state, settings = PartialState(), run.settings
    torch.manual_seed(settings.seed)
    blocks = _blocks(run, data, state.num_processes)
    progress = Progress(max_steps=_max_steps(settings, blocks), max_time=settings.max_time)
    checkpoint = last_checkpoint(run.work / "checkpoints") if run.resume else None
    if checkpoint is not None:
        progress.step, progress.elapsed = checkpoint.step, checkpoint.elapsed
    metrics = run.output / METRICS
    if state.is_main_process and run.resume:
        cut_metrics(metrics, after=progress.step)
    arguments = _training_arguments(run.work, settings, progress.max_steps)
    model = _model(run, data)
    return LanguageTrainer(
        model=model,
        args=arguments,
        blocks=blocks,
        validation=data.validation_rows(run.context, settings.validation_tokens),
        bytes_per_token=sum(data.validation.sizes) / max(1, data.validation.tokens),
        settings=settings,
        precision=training_precision(settings.precision, arguments.device),
        pace=Pace(progress, settings, interrupted=interrupted),
        callbacks=[
            MetricsLog(
                metrics,
                progress=progress,
                tokens_per_step=blocks.blocks_per_step * run.context,
                grow_from=settings.grow_from,
                context=run.context,
                report=report,
            ),
            Sampler(
                data.tokenizer,
                start=data.end_of_text,
                prompt=settings.sample_prompt,
                context=run.context,
                progress=progress,
                report=report,
            ),
        ],
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


def _training_arguments(work: Path, settings: TrainSettings, max_steps: int) -> TrainingArguments:
    """Return Trainer's arguments; when to log, evaluate and save is the pace's."""
    use_cpu = not torch.cuda.is_available()
    several = PartialState().num_processes > 1
    return TrainingArguments(
        output_dir=str(work / "checkpoints"),
        max_steps=max_steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        max_grad_norm=settings.max_grad_norm,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        use_cpu=use_cpu,
        ddp_backend="gloo" if several and use_cpu else None,
        ddp_find_unused_parameters=False,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_total_limit=2,
        ignore_data_skip=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[],
    )


def _described(data: Data) -> str:
    held = len(data.validation.names) if data.by_document else 0
    how = f"{held} whole documents" if held else "the end of each document"
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
def _foreign_errors() -> Iterator[None]:
    """Say in our words what torch says about memory and about other processes."""
    try:
        yield
    except (RuntimeError, MemoryError) as exc:
        if is_out_of_memory(exc):
            raise OutOfMemory(
                "A training step does not fit into memory.",
                "Use a smaller --batch-size with --gradient-accumulation-steps, a smaller "
                "--context, or --gradient-checkpointing.",
            ) from exc
        if isinstance(exc, torch.distributed.DistError) or "gloo" in str(exc).lower():
            raise LostProcess(
                "Another process of the run has ended.",
                "Go on from the last checkpoint with --resume.",
            ) from exc
        raise

"""One training run from text to a folder that any transformers program loads."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

from llmcli.errors import InvalidInput
from llmcli.training.data import Data, load_data, prepare_data
from llmcli.training.loop import LanguageTrainer
from llmcli.training.memory import keep_freed_memory
from llmcli.training.metrics import MetricsLog, Report, cut_metrics
from llmcli.training.pace import Pace, last_checkpoint
from llmcli.training.schedule import Progress
from llmcli.training.settings import ModelShape, TrainSettings
from llmcli.training.tokens import Blocks

WORK = "training"
METRICS = "metrics.jsonl"
_ENDLESS = 10_000_000  # steps of a run that only the clock ends


def train(
    sources: Sequence[str],
    output: Path,
    *,
    settings: TrainSettings,
    shape: ModelShape,
    split_on: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    command: str = "",
    report: Report = lambda record: None,
    notify: Callable[[str], None] = lambda sentence: None,
) -> None:
    keep_freed_memory()
    transformers.logging.set_verbosity_error()
    state = PartialState(cpu=not torch.cuda.is_available())
    work = output / WORK
    with state.main_process_first():
        if state.is_main_process:
            work.mkdir(parents=True, exist_ok=True)
            data = load_data(work) if resume else None
            if data is None:
                data = prepare_data(sources, work, settings=settings, shape=shape, split_on=split_on)
            notify(f"{data.train.tokens} tokens to train on, {data.validation.tokens} held out.")
    data = load_data(work)
    assert data is not None
    torch.manual_seed(settings.seed)
    model = new_model(shape, settings, data.end_of_text)
    faster_activation(model)
    notify(f"{sum(p.numel() for p in model.parameters())} parameters.")
    blocks = Blocks(
        data.train.open(),
        context=shape.n_positions,
        blocks_per_step=settings.batch_size
        * settings.gradient_accumulation_steps
        * state.num_processes,
        seed=settings.seed,
    )
    max_steps = settings.max_steps or (
        math.ceil(settings.epochs * blocks.steps_per_pass) if settings.epochs
        else _ENDLESS if settings.max_time else math.ceil(blocks.steps_per_pass)
    )
    checkpoint = last_checkpoint(work / "checkpoints") if resume else None
    progress = Progress(max_steps=max_steps, max_time=settings.max_time)
    metrics = output / METRICS
    if checkpoint:
        progress.step, progress.elapsed = int(checkpoint[0].name.split("-")[1]), checkpoint[1]
        if state.is_main_process:
            cut_metrics(metrics, after=progress.step)
        notify(f"Going on after step {progress.step}.")
    elif state.is_main_process:
        metrics.write_text("")
    if settings.compile:
        model.compile(dynamic=False)
    precision = settings.precision
    if precision == "auto":
        precision = "bfloat16"
    trainer = LanguageTrainer(
        model=model,
        args=training_arguments(work, settings, max_steps),
        blocks=blocks,
        validation=validation_rows(data, shape.n_positions, settings.validation_tokens),
        bytes_per_token=sum(data.validation.sizes) / max(1, data.validation.tokens),
        settings=settings,
        precision=precision,
        progress=progress,
        callbacks=[
            Pace(progress, settings),
            MetricsLog(
                metrics,
                progress=progress,
                tokens_per_step=blocks.blocks_per_step * shape.n_positions,
                grow_from=settings.grow_from,
                context=shape.n_positions,
                report=report,
            ),
        ],
    )
    if progress.fraction < 1:
        trainer.train(resume_from_checkpoint=str(checkpoint[0]) if checkpoint else None)


def new_model(shape: ModelShape, settings: TrainSettings, end_of_text: int) -> nn.Module:
    """Return a GPT-2 with random weights."""
    config = GPT2Config(
        **asdict(shape),
        resid_pdrop=settings.dropout,
        embd_pdrop=settings.dropout,
        attn_pdrop=settings.dropout,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        use_cache=False,
    )
    return GPT2LMHeadModel(config)


def faster_activation(model: nn.Module) -> None:
    """Replace GPT-2's activation by torch's own of the same formula, one pass over memory."""
    for module in model.modules():
        if type(getattr(module, "act", None)).__name__ == "NewGELUActivation":
            module.act = nn.GELU(approximate="tanh")


def training_arguments(work: Path, settings: TrainSettings, max_steps: int) -> TrainingArguments:
    """Return Trainer's arguments; logging, evaluation and saving are the pace's."""
    use_cpu = not torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(work / "checkpoints"),
        max_steps=max_steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        max_grad_norm=settings.max_grad_norm,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        use_cpu=use_cpu,
        ddp_backend="gloo" if PartialState().num_processes > 1 and use_cpu else None,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_total_limit=2,
        ddp_find_unused_parameters=False,
        ignore_data_skip=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[],
    )


def validation_rows(data: Data, context: int, limit: int) -> Tensor | None:
    """Return about ``limit`` held-out tokens, evenly spread, shape [rows, context + 1]."""
    ids = data.validation.open()
    rows = (len(ids) - 1) // context
    if rows < 1:
        return None
    take = max(1, min(rows, limit // context))
    starts = [rows * i // take * context for i in range(take)]
    return torch.stack([torch.from_numpy(ids[s : s + context + 1].astype("int64")) for s in starts])

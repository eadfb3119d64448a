"""The callback that turns the clock into schedule, evaluations, checkpoints and the end."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmcli.errors import NumericalError
from llmcli.io.files import atomic_write
from llmcli.training.schedule import Progress, set_learning_rate
from llmcli.training.settings import TrainSettings

COMPLETE = "complete.json"
"""Written into a checkpoint when everything else of it is there."""


class Pace(TrainerCallback):
    """Keeps :class:`Progress` and says when to log, evaluate, save and stop.

    Args:
        progress: The run's.
        settings: The intervals.
        interrupted: Whether to save and stop; asked after each step.
        log_every: Steps between two log records.

    Attributes:
        loss_is_finite: Of this process's last step; the loop sets it.
        was_interrupted: Whether the run stopped because it was asked to.
    """

    def __init__(
        self,
        progress: Progress,
        settings: TrainSettings,
        *,
        interrupted: Callable[[], bool] = lambda: False,
        log_every: int = 10,
    ) -> None:
        self.progress = progress
        self.settings = settings
        self.interrupted = interrupted
        self.log_every = log_every
        self.loss_is_finite = True
        self.was_interrupted = False
        self._evaluated = progress.elapsed
        self._saved = progress.elapsed
        self._best = float("inf")
        self._worse = 0
        self._has_checkpoint = progress.step > 0

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        lr_scheduler: LRScheduler | None = None,
        **_: Any,
    ) -> None:
        """Start the clock (loading and tokenising are not training); take up a resumed run."""
        self.progress.restart_clock()
        if lr_scheduler is not None:
            set_learning_rate(lr_scheduler, self.progress.fraction, self.settings)
        if state.best_metric is not None:
            self._best = state.best_metric
        if state.best_global_step is not None:
            # Trainer stored the path as it was then, and forgets it where the folder has moved.
            state.best_model_checkpoint = _folder(args, state.best_global_step)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count the step; processes agree on the time, on the end, and on a broken loss.

        Raises:
            NumericalError: a process's loss was NaN or infinite.
        """
        elapsed, main = self.progress.tick(), state.is_world_process_zero
        shared = torch.tensor(
            [elapsed if main else 0.0, main and self.interrupted(), not self.loss_is_finite],
            dtype=torch.float64,
            device=args.device,
        )
        if PartialState().num_processes > 1:
            torch.distributed.all_reduce(shared)
        elapsed, stop, broken = shared.tolist()
        self.progress.step, self.progress.elapsed = state.global_step + 1, elapsed
        self.was_interrupted = bool(stop)
        if broken:
            raise self._not_finite("The loss", self.progress.step)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        """Set what is due.

        Raises:
            NumericalError: a checkpoint is due, and the weights are not what to keep.
        """
        done = self.progress.fraction >= 1 or self.was_interrupted
        elapsed = self.progress.elapsed
        due = elapsed - self._evaluated >= self.settings.evaluate_every
        if (done and not self.was_interrupted) or due:
            self._evaluated = elapsed
            control.should_evaluate = True
        if done or elapsed - self._saved >= self.settings.save_every:
            self._saved = elapsed
            control.should_save = True
        if control.should_save and model is not None and not _is_finite(model):
            raise self._not_finite("A weight", self.progress.step)
        control.should_log = control.should_evaluate or state.global_step % self.log_every == 0
        control.should_training_stop = control.should_training_stop or done

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Stop where the validation loss has not improved for long enough.

        Raises:
            NumericalError: it is NaN or infinite.
        """
        if not math.isfinite((metrics or {}).get("eval_loss", 0.0)):
            raise self._not_finite("The validation loss", state.global_step)
        if self.settings.early_stopping is None:
            return
        loss = (metrics or {}).get("eval_loss", float("inf"))
        self._worse = 0 if loss < self._best else self._worse + 1
        if loss < self._best:
            # Trainer keeps this checkpoint when it deletes old ones.
            state.best_model_checkpoint = _folder(args, state.global_step)
            state.best_global_step, state.best_metric = state.global_step, loss
            self._best = loss
            control.should_save = True
        if self._worse >= self.settings.early_stopping:
            control.should_save = True
            control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Mark the checkpoint as complete."""
        self._has_checkpoint = True
        if state.is_world_process_zero:
            folder = Path(_folder(args, state.global_step))
            record = {"step": state.global_step, "elapsed": self.progress.elapsed}
            with atomic_write(folder / COMPLETE) as out:
                out.write(json.dumps(record).encode())

    def _not_finite(self, what: str, step: int) -> NumericalError:
        again = "Go on from the last checkpoint with --resume and" if self._has_checkpoint else ""
        return NumericalError(
            f"{what} became NaN or infinite in step {step}.",
            f"{again or 'Start again with'} a lower --learning-rate.",
        )


def _folder(args: TrainingArguments, step: int) -> str:
    return str(Path(str(args.output_dir)) / f"checkpoint-{step}")


def _is_finite(model: nn.Module) -> bool:
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a run stands: a folder, steps done, seconds of training in it."""

    folder: Path
    step: int
    elapsed: float


def last_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest complete checkpoint, or None."""
    found = []
    for path in folder.glob(f"checkpoint-*/{COMPLETE}"):
        record = json.loads(path.read_text(encoding="utf-8"))
        found.append(Checkpoint(path.parent, int(record["step"]), float(record["elapsed"])))
    return max(found, key=lambda each: each.step, default=None)

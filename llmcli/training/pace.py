"""The callback that turns the clock into schedule, evaluations, checkpoints and the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmcli.training.schedule import Progress
from llmcli.training.settings import TrainSettings

COMPLETE = "complete.json"
"""Written into a checkpoint when everything else of it is there."""


class Pace(TrainerCallback):
    """Keeps :class:`Progress` and says when to log, evaluate, save and stop.

    Args:
        progress: The run's.
        settings: The intervals.
        log_every: Steps between two log records.
    """

    def __init__(self, progress: Progress, settings: TrainSettings, *, log_every: int = 10) -> None:
        self.progress = progress
        self.settings = settings
        self.log_every = log_every
        self._evaluated = progress.elapsed
        self._saved = progress.elapsed
        self._best = float("inf")
        self._worse = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the clock; loading and tokenising are not training."""
        self.progress.restart_clock()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count the step; every process takes the first one's time."""
        self.progress.step = state.global_step + 1
        elapsed = self.progress.tick()
        if PartialState().num_processes > 1:
            shared = torch.tensor([elapsed], dtype=torch.float64, device=args.device)
            torch.distributed.broadcast(shared, src=0)
            self.progress.elapsed = float(shared)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Set what is due."""
        done = self.progress.fraction >= 1
        elapsed = self.progress.elapsed
        if done or elapsed - self._evaluated >= self.settings.evaluate_every:
            self._evaluated = elapsed
            control.should_evaluate = True
        if done or elapsed - self._saved >= self.settings.save_every:
            self._saved = elapsed
            control.should_save = True
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
        """Stop where the validation loss has not improved for long enough."""
        loss = (metrics or {}).get("eval_loss", float("inf"))
        self._worse = 0 if loss < self._best else self._worse + 1
        self._best = min(self._best, loss)
        if self.settings.early_stopping is not None and self._worse >= self.settings.early_stopping:
            control.should_save = True
            control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Mark the checkpoint as complete."""
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            record = {"step": state.global_step, "elapsed": self.progress.elapsed}
            (folder / COMPLETE).write_text(json.dumps(record))


def last_checkpoint(folder: Path) -> tuple[Path, float] | None:
    """Return the newest complete checkpoint and the seconds of training in it."""
    found = []
    for path in folder.glob(f"checkpoint-*/{COMPLETE}"):
        record = json.loads(path.read_text())
        found.append((int(record["step"]), path.parent, float(record["elapsed"])))
    if not found:
        return None
    _, path, elapsed = max(found)
    return path, elapsed

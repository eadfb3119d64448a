"""The training loop: steps over blocks of a token file, paced by a clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from llmcli.errors import NumericalError
from llmcli.training.checkpoints import Checkpoint, Checkpoints
from llmcli.training.evaluation import QuickEvaluation, autocast
from llmcli.training.metrics import MetricsLog
from llmcli.training.optimizer import make_optimizer
from llmcli.training.pace import Pace
from llmcli.training.sample import Sampler
from llmcli.training.schedule import Progress, learning_rate_factor, sequence_length
from llmcli.training.settings import TrainSettings
from llmcli.training.tokens import Blocks


class TrainingLoop:
    """Next-token training on blocks of token ids, in one process or several.

    Args:
        accelerator: The processes of the run, and their device.
        model: What is trained, in place.
        blocks: The ids of each step.
        settings: How.
        progress: Where the run stands.
        precision: Of the forward pass: ``float32`` or ``bfloat16``.
        pace: When to log, evaluate, save and end.
        checkpoints: Where to.
        evaluation: Of the held-out tokens.
        metrics: Gets what was measured.
        sampler: Draws a text after each evaluation.
        interrupted: Asked after each step; true saves a checkpoint and stops.
    """

    def __init__(
        self,
        *,
        accelerator: Accelerator,
        model: nn.Module,
        blocks: Blocks,
        settings: TrainSettings,
        progress: Progress,
        precision: str,
        pace: Pace,
        checkpoints: Checkpoints,
        evaluation: QuickEvaluation,
        metrics: MetricsLog,
        sampler: Sampler,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.accelerator = accelerator
        self.module = model
        self.blocks = blocks
        self.settings = settings
        self.progress = progress
        self.precision = precision
        self.pace = pace
        self.checkpoints = checkpoints
        self.evaluation = evaluation
        self.metrics = metrics
        self.sampler = sampler
        self.interrupted = interrupted
        # Wrapped where there are several processes; the parameters are the module's own.
        self.model: Any = accelerator.prepare(model)
        self.optimizer: Any = accelerator.prepare(make_optimizer(model, settings))
        self._has_checkpoint = False

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.checkpoints.restore(self.accelerator, self.module, checkpoint)
        self._has_checkpoint = True

    def run(self) -> None:
        """Train until the pace says that the run has ended.

        Raises:
            NumericalError: a loss or a weight became NaN or infinite.
            OSError: a checkpoint cannot be written.
        """
        self.progress.restart_clock()
        self.metrics.restart(self.progress.step)
        self.module.train()
        while not self.pace.has_ended:
            self._step()
            due = self.pace.after_step()
            if due.log:
                self.metrics.log_training(self.progress.step)
            save = due.save
            if due.evaluate:
                save |= self._evaluate()
            if save:
                self._save()

    def loss(self, rows: Tensor) -> Tensor:
        """Return the mean loss of a batch; ``rows`` has the shape [rows, length + 1]."""
        targets = rows[:, 1:].contiguous()
        with autocast(self.precision, self.accelerator.device):
            loss: Tensor = self.model(
                input_ids=rows[:, :-1].contiguous(), labels=targets, shift_labels=targets
            ).loss
        return loss

    def _step(self) -> None:
        """Move the weights once.

        Raises:
            NumericalError: a process's loss was NaN or infinite.
        """
        settings, batches = self.settings, self.settings.gradient_accumulation_steps
        rate = settings.learning_rate * learning_rate_factor(self.progress.fraction, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        total = torch.zeros((), device=self.accelerator.device)
        for number in range(batches):
            # Gradients travel between processes with the last batch alone.
            together = number == batches - 1
            with nullcontext() if together else self.accelerator.no_sync(self.model):
                loss = self.loss(self._rows(self.progress.step * batches + number)) / batches
                backward: Any = loss.backward  # torch leaves it without types
                backward()
            total += loss.detach()
        norm = None
        if settings.max_grad_norm > 0:
            norm = nn.utils.clip_grad_norm_(self.module.parameters(), settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        step = self.progress.step + 1
        mean = self._agree(total)
        if not math.isfinite(mean):
            raise self._not_finite("The loss", step)
        self.progress.step = step
        self.metrics.add(mean, learning_rate=rate, grad_norm=None if norm is None else norm.item())

    def _rows(self, batch: int) -> Tensor:
        """Return this process's part of the ``batch``-th batch, [rows, length + 1]."""
        size, place = self.settings.batch_size, self.accelerator
        first = (batch * place.num_processes + place.process_index) * size
        length = sequence_length(
            self.progress.fraction,
            grow_from=self.settings.grow_from,
            context=self.blocks.context,
        )
        rows = self.blocks.batch(range(first, first + size), length=length)
        return torch.from_numpy(rows).to(self.accelerator.device)

    def _agree(self, loss: Tensor) -> float:
        """Return the mean loss of all processes, which take the first one's time and interrupt."""
        elapsed, main = self.progress.tick(), self.accelerator.is_main_process
        shared = torch.tensor(
            [
                loss.item() / self.accelerator.num_processes,
                elapsed if main else 0.0,
                main and self.interrupted(),
            ],
            dtype=torch.float64,
            device=self.accelerator.device,
        )
        mean, self.progress.elapsed, stop = self.accelerator.reduce(shared).tolist()
        self.pace.was_interrupted = bool(stop)
        return float(mean)

    def _evaluate(self) -> bool:
        """Evaluate; return whether to save for its sake.

        Raises:
            NumericalError: the loss is NaN or infinite.
        """
        found = self.evaluation(self.module, self.precision, accelerator=self.accelerator)
        if found is None:
            return False
        if not math.isfinite(found.loss):
            raise self._not_finite("The validation loss", self.progress.step)
        if self.accelerator.is_main_process:
            self.metrics.log_validation(self.progress.step, found)
            self.sampler(self.module, self.progress.step)
        return self.pace.after_evaluation(found.loss)

    def _save(self) -> None:
        """Store a checkpoint.

        Raises:
            NumericalError: the weights are not what to keep.
        """
        progress = self.progress
        if not all(bool(torch.isfinite(each).all()) for each in self.module.parameters()):
            raise self._not_finite("A weight", progress.step)
        now = Checkpoint(step=progress.step, elapsed=progress.elapsed, best=self.pace.best)
        self.checkpoints.save(self.accelerator, self.module, now)
        self._has_checkpoint = True

    def _not_finite(self, what: str, step: int) -> NumericalError:
        again = "Go on from the last checkpoint with --resume and" if self._has_checkpoint else ""
        return NumericalError(
            f"{what} became NaN or infinite in step {step}.",
            f"{again or 'Start again with'} a lower --learning-rate.",
        )

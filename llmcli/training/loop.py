"""The loop: transformers' Trainer, paced by a clock, over blocks of a token file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from llmcli.training.evaluation import Likelihood, token_losses
from llmcli.training.optimizer import make_optimizer
from llmcli.training.pace import Pace
from llmcli.training.schedule import Progress, learning_rate_factor, sequence_length
from llmcli.training.settings import TrainSettings
from llmcli.training.tokens import Blocks


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which matrix products run in ``precision``."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


class StepRows(Dataset[dict[str, Tensor]]):
    """The rows of each batch, cut to the length that the run's progress asks for."""

    def __init__(self, blocks: Blocks, settings: TrainSettings, progress: Progress) -> None:
        self.blocks, self.settings, self.progress = blocks, settings, progress
        state = PartialState()
        self.rank, self.world = state.process_index, state.num_processes

    def __getitem__(self, batch: int) -> dict[str, Tensor]:
        """Return this process's part of the ``batch``-th batch, [rows, length + 1]."""
        size = self.settings.batch_size
        first = (batch * self.world + self.rank) * size
        length = sequence_length(
            self.progress.fraction,
            grow_from=self.settings.grow_from,
            context=self.blocks.context,
        )
        rows = self.blocks.batch(range(first, first + size), length=length)
        return {"rows": torch.from_numpy(rows)}


class BatchNumbers(Sampler[int]):
    """The numbers of the batches from where the run stands to its end."""

    def __init__(self, trainer: LanguageTrainer) -> None:
        self.trainer = trainer

    def __len__(self) -> int:
        return self.trainer.args.max_steps * self.trainer.args.gradient_accumulation_steps

    def __iter__(self) -> Iterator[int]:
        first = self.trainer.state.global_step * self.trainer.args.gradient_accumulation_steps
        return iter(range(first, len(self)))


class LanguageTrainer(Trainer):
    """Next-token training on blocks of token ids.

    What is Trainer's: accumulation, clipping, several processes, checkpoints, resuming.
    What is replaced: where batches come from, the clock that schedules follow, the loss (no
    float32 copy of the logits outside the model), the quick evaluation.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        args: TrainingArguments,
        blocks: Blocks,
        validation: Tensor | None,
        bytes_per_token: float,
        settings: TrainSettings,
        precision: str,
        pace: Pace,
        callbacks: Sequence[TrainerCallback],
    ) -> None:
        self.blocks = blocks
        self.validation = validation
        self.bytes_per_token = bytes_per_token
        self.settings = settings
        self.precision = precision
        self.pace = pace
        self.rows = StepRows(blocks, settings, pace.progress)
        super().__init__(model=model, args=args, train_dataset=self.rows)
        self.remove_callback(PrinterCallback)
        for callback in (pace, *callbacks):
            self.add_callback(callback)

    @property
    def module(self) -> nn.Module:
        """The model without what wraps it for several processes."""
        return cast("nn.Module", self.model)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of this process from the current step on."""
        return DataLoader(self.rows, batch_size=None, sampler=BatchNumbers(self))

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """Return the optimizer of the settings."""
        if self.optimizer is None:
            self.optimizer = make_optimizer(self.module, self.settings)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: Optimizer | None = None
    ) -> LRScheduler:
        """Return a schedule over the run's progress, whatever the step's number."""
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(
                optimizer or self.create_optimizer(),
                lambda _: learning_rate_factor(self.pace.progress.fraction, self.settings),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss_context_manager(self) -> Any:
        """Return the precision of the forward pass.

        Not Trainer's own ``bf16``: that copies the logits to float32 after every pass.
        """
        return autocast(self.precision, self.args.device)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the mean loss of the rows; the pace stops the run where it is not finite."""
        rows = inputs["rows"]
        targets = rows[:, 1:].contiguous()
        loss: Tensor = model(
            input_ids=rows[:, :-1].contiguous(), labels=targets, shift_labels=targets
        ).loss
        self.pace.loss_is_finite &= bool(torch.isfinite(loss))
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: nothing here reads the count, and it costs a pass over the parameters."""
        return 0

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Return loss, perplexity and bits per byte on part of the held-out tokens."""
        result = self.quick_likelihood()
        if result is None:
            return {}
        metrics = {
            "eval_loss": result.loss,
            "eval_perplexity": result.perplexity,
            "eval_bits_per_byte": result.bits_per_byte,
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    @torch.no_grad()
    def quick_likelihood(
        self, *, together: bool = True, precision: str | None = None
    ) -> Likelihood | None:
        """Return the likelihood of part of the held-out tokens; None where there are none.

        Args:
            together: Every process takes a share and gets the result of all.
            precision: Of the computation; the run's if None.
        """
        if self.validation is None:
            return None
        self.module.eval()
        state = PartialState()
        share = together and state.num_processes > 1
        rows = (
            self.validation[state.process_index :: state.num_processes]
            if share
            else self.validation
        )
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        at_once = max(1, 1024 // self.blocks.context)
        context = autocast(precision or self.precision, self.args.device)
        with torch.compiler.set_stance("force_eager"), context:
            for row in torch.split(rows.to(self.args.device), at_once) if len(rows) else ():
                total[0] += token_losses(self.module, row).double().sum()
                total[1] += row.numel() - len(row)
        self.module.train()
        if share:
            torch.distributed.all_reduce(total)
        nats, tokens = total.tolist()
        return Likelihood(
            nats=nats, tokens=int(tokens), bytes=max(1, round(tokens * self.bytes_per_token))
        )

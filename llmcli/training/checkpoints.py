"""Checkpoints: a folder for each, complete or not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator, load_checkpoint_in_model
from torch import nn

from llmcli.errors import InvalidInput
from llmcli.io.files import atomic_write

_COMPLETE = "complete.json"
"""Written into a checkpoint when everything else of it is there."""
_LAYOUT = 2
_KEPT = 2


@dataclass(frozen=True, slots=True)
class Best:
    """The best evaluation so far, and how many have been worse since.

    Attributes:
        step: When it was.
        loss: Its validation loss.
        worse: Evaluations after it.
    """

    step: int
    loss: float
    worse: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Where a run stands.

    Attributes:
        step: Optimizer steps done.
        elapsed: Seconds of training in it.
        best: Where the run looks for the best model.
    """

    step: int
    elapsed: float
    best: Best | None = None


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        """Return the folder of the checkpoint of a step."""
        return self.folder / f"checkpoint-{step}"

    def last(self) -> Checkpoint | None:
        """Return the newest complete checkpoint, or None.

        Raises:
            InvalidInput: another version of llmcli wrote it.
        """
        found = []
        for path in self.folder.glob(f"checkpoint-*/{_COMPLETE}"):
            record = json.loads(path.read_text(encoding="utf-8"))
            if record.pop("layout", None) != _LAYOUT:
                raise InvalidInput(
                    f"Another version of llmcli wrote {path.parent}.",
                    "Resume with that version, or start again with --overwrite.",
                )
            best = record.pop("best")
            found.append(Checkpoint(**record, best=Best(**best) if best else None))
        return max(found, key=lambda each: each.step, default=None)

    def save(self, accelerator: Accelerator, model: nn.Module, at: Checkpoint) -> None:
        """Store weights, optimizer and random states; every process of the run calls this.

        The newest checkpoints and the best one stay, the others are deleted.

        Raises:
            OSError: it cannot be written.
        """
        folder = self.path(at.step)
        if accelerator.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
        accelerator.wait_for_everyone()
        with _own_weights(accelerator, model):
            accelerator.save_state(str(folder))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            with atomic_write(folder / _COMPLETE) as out:
                out.write(json.dumps({"layout": _LAYOUT, **asdict(at)}).encode())
            self._prune(at)

    def restore(self, accelerator: Accelerator, model: nn.Module, at: Checkpoint) -> None:
        """Take up what :meth:`save` stored."""
        with _own_weights(accelerator, model):
            accelerator.load_state(str(self.path(at.step)))

    def load_weights(self, model: nn.Module, step: int) -> None:
        """Give a model the weights of a checkpoint, in place."""
        _load_weights(model, self.path(step))

    def _prune(self, at: Checkpoint) -> None:
        steps = sorted(int(path.name.split("-")[1]) for path in self.folder.glob("checkpoint-*"))
        kept = {at.best.step, at.step} if at.best else set(steps[-_KEPT:])
        for step in steps:
            if step not in kept:
                shutil.rmtree(self.path(step), ignore_errors=True)


@contextmanager
def _own_weights(accelerator: Accelerator, model: nn.Module) -> Iterator[None]:
    """Let the model write and read its own weights: of an adapter, the adapter's alone."""
    own: Any = model

    def save(models: list[Any], weights: list[Any], folder: str) -> None:
        weights.clear()
        if accelerator.is_main_process:
            own.save_pretrained(folder)

    def load(models: list[Any], folder: str) -> None:
        models.clear()
        _load_weights(model, Path(folder))

    hooks = (
        accelerator.register_save_state_pre_hook(save),
        accelerator.register_load_state_pre_hook(load),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _load_weights(model: nn.Module, folder: Path) -> None:
    if not hasattr(model, "peft_config"):
        load_checkpoint_in_model(model, str(folder), strict=False)
        return
    from peft import load_peft_weights, set_peft_model_state_dict

    set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))

"""``metrics.jsonl``: what was measured while a model trained."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmcli.training.schedule import Progress, sequence_length

Report = Callable[[dict[str, Any]], None]
"""Called with each record of ``metrics.jsonl``."""


class MetricsLog(TrainerCallback):
    """Writes a record at each log, and hands it to ``report``.

    Args:
        path: The file; records are appended.
        progress: The run's clock.
        tokens_per_step: Over all processes.
        grow_from: As in the settings.
        context: Of the model.
        report: Also gets each record.
    """

    def __init__(
        self,
        path: Path,
        *,
        progress: Progress,
        tokens_per_step: int,
        grow_from: int | None,
        context: int,
        report: Report,
    ) -> None:
        self.path = path
        self.progress = progress
        self.tokens_per_step = tokens_per_step
        self.grow_from, self.context = grow_from, context
        self.report = report
        self._at = (0, time.monotonic())

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Begin to measure the rate."""
        self._at = (state.global_step, time.monotonic())

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Write one record."""
        logs = logs or {}
        if not state.is_world_process_zero or not {"loss", "eval_loss"} & logs.keys():
            return
        fraction = self.progress.fraction
        record: dict[str, Any] = {
            "step": state.global_step,
            "tokens": state.global_step * self.tokens_per_step,
            "elapsed": round(self.progress.elapsed, 1),
            "progress": round(fraction, 4),
        }
        if "loss" in logs:
            step, since = self._at
            now = time.monotonic()
            rate = (state.global_step - step) * self.tokens_per_step / max(now - since, 1e-9)
            self._at = (state.global_step, now)
            record |= {
                "loss": logs["loss"],
                "learning_rate": logs.get("learning_rate"),
                "grad_norm": logs.get("grad_norm"),
                "tokens_per_second": round(rate, 1),
                "sequence_length": sequence_length(
                    fraction, grow_from=self.grow_from, context=self.context
                ),
            }
        else:
            record |= {
                "validation_loss": logs["eval_loss"],
                "validation_perplexity": logs["eval_perplexity"],
                "validation_bits_per_byte": logs["eval_bits_per_byte"],
            }
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(record) + "\n")
        self.report(record)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a ``metrics.jsonl``; a torn last line is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def cut_metrics(path: Path, *, after: int) -> None:
    """Drop the records after step ``after``, which a resumed run writes again."""
    kept = [record for record in read_metrics(path) if record["step"] <= after]
    path.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")

"""``metrics.jsonl``: what was measured while a model trained."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmcli.training.evaluation import Likelihood
from llmcli.training.schedule import Progress, sequence_length

Report = Callable[[dict[str, Any]], None]
"""Called with each record of ``metrics.jsonl``."""


class MetricsLog:
    """Writes a record at each log, and hands it to ``report``.

    Args:
        path: The file; records are appended.
        progress: The run's clock.
        tokens_per_step: Over all processes.
        grow_from: As in the settings.
        context: Of the model.
        report: Also gets each record.
        writes: Whether this process is the one that writes.
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
        writes: bool = True,
    ) -> None:
        self.path = path
        self.progress = progress
        self.tokens_per_step = tokens_per_step
        self.grow_from, self.context = grow_from, context
        self.report = report
        self.writes = writes
        self.restart(0)

    def restart(self, step: int) -> None:
        """Measure the rate, and the mean of the losses, from here on."""
        self._at = (step, time.monotonic())
        self._losses: list[float] = []
        self._last: dict[str, float | None] = {}

    def add(self, loss: float, *, learning_rate: float, grad_norm: float | None) -> None:
        """Take up one step."""
        self._losses.append(loss)
        self._last = {"learning_rate": learning_rate, "grad_norm": grad_norm}

    def log_training(self, step: int) -> None:
        """Write the mean loss of the steps since the last record."""
        before, since = self._at
        rate = (step - before) * self.tokens_per_step / max(time.monotonic() - since, 1e-9)
        length = sequence_length(
            self.progress.fraction, grow_from=self.grow_from, context=self.context
        )
        self._write(
            step,
            {
                "loss": sum(self._losses) / len(self._losses),
                **self._last,
                "tokens_per_second": round(rate, 1),
                "sequence_length": length,
            },
        )
        self.restart(step)

    def log_validation(self, step: int, found: Likelihood) -> None:
        """Write an evaluation."""
        self._write(
            step,
            {
                "validation_loss": found.loss,
                "validation_perplexity": found.perplexity,
                "validation_bits_per_byte": found.bits_per_byte,
            },
        )

    def _write(self, step: int, measured: dict[str, Any]) -> None:
        if not self.writes:
            return
        record = {
            "step": step,
            "tokens": step * self.tokens_per_step,
            "elapsed": round(self.progress.elapsed, 1),
            "progress": round(self.progress.fraction, 4),
            **measured,
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

"""When a run logs, evaluates, saves and ends."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmcli.training.checkpoints import Best
from llmcli.training.schedule import Progress
from llmcli.training.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be done after a step."""

    log: bool
    evaluate: bool
    save: bool


class Pace:
    """Says what is due, by the clock.

    Args:
        progress: The run's.
        settings: The intervals, and the patience.
        best: Of the part of the run that is done.
        log_every: Steps between two log records.

    Attributes:
        was_interrupted: Whether the run stops because it was asked to.
    """

    def __init__(
        self,
        progress: Progress,
        settings: TrainSettings,
        *,
        best: Best | None = None,
        log_every: int = 10,
    ) -> None:
        self.progress = progress
        self.settings = settings
        self.best = best
        self.log_every = log_every
        self.was_interrupted = False
        self._evaluated = self._saved = progress.elapsed

    @property
    def has_ended(self) -> bool:
        """Whether there is no further step."""
        return self.was_interrupted or self._is_done

    @property
    def _is_done(self) -> bool:
        patience = self.settings.early_stopping
        gave_up = patience is not None and self.best is not None and self.best.worse >= patience
        return gave_up or self.progress.fraction >= 1

    def after_step(self) -> Due:
        """Return what is due now."""
        elapsed = self.progress.elapsed
        evaluate = elapsed - self._evaluated >= self.settings.evaluate_every
        if evaluate or (self._is_done and not self.was_interrupted):
            self._evaluated, evaluate = elapsed, True
        save = self.has_ended or elapsed - self._saved >= self.settings.save_every
        if save:
            self._saved = elapsed
        return Due(evaluate or self.progress.step % self.log_every == 0, evaluate, save)

    def after_evaluation(self, loss: float) -> bool:
        """Return whether to save for the evaluation's sake: it is the best, or the last one."""
        if self.settings.early_stopping is None:
            return False
        if self.best is None or loss < self.best.loss:
            self.best = Best(self.progress.step, loss)
            return True
        self.best = replace(self.best, worse=self.best.worse + 1)
        return self._is_done

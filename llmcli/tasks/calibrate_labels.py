"""How far a model's probabilities of labels are right, what mends them, and sets that cover."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from llmcli.errors import InvalidInput
from llmcli.io.records import Record
from llmcli.tasks.classify import Decision
from llmcli.tasks.labels import (
    Correction,
    LabelTask,
    batch_prior,
    data_free_prior,
    domain_prior,
    label_scores,
)
from llmcli.tasks.provenance import provenance
from llmcli.tasks.templates import Template

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from llmcli.models.language_model import LanguageModel
    from llmcli.scoring.labels import Fit, LabelFigures

_SEED = 20_240_501
# Fewer of one label, and a bias for each would be fitted to noise.
LEAST_FOR_BIAS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledInput:
    """An input whose label is known."""

    record: Record
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCalibrationRequest:
    """How labels are calibrated.

    Attributes:
        correct: What is taken out before the fit.
        gamma: How much of it.
        domain: The prompt of pmi; None for the template's end.
        holdout: The share of inputs that the fit does not see.
        alpha: The share of sets that may miss the truth.
        bins: For the ECE.

    Raises:
        InvalidInput: a number is out of its range.
    """

    correct: Correction = "none"
    gamma: float = 1.0
    domain: str | None = None
    holdout: float = 0.5
    alpha: float = 0.1
    bins: int = 15

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        if not 0 < self.holdout < 1:
            raise InvalidInput(
                f"--holdout is {self.holdout}.", "With --labels it must be above 0 and below 1."
            )


def check_alpha(alpha: float) -> None:
    """Raise InvalidInput unless it lies between 0 and 1."""
    if not 0 < alpha < 1:
        raise InvalidInput(f"--alpha is {alpha}.", "It must be above 0 and below 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conformal:
    """Split conformal sets; docs/calibration.md has the formulas.

    Attributes:
        alpha: The share of them that may miss the truth.
        inputs: How many the threshold is of.
        threshold: What 1 - q is at most for the labels of a set.
        coverage: How many hold the truth, with thresholds of the other half; None for too few.
        coverage_interval: Wilson's, of 95 %.
        set_size: How many labels they have on average.
        empty: How many have none.
    """

    alpha: float
    inputs: int
    threshold: float
    coverage: float | None
    coverage_interval: tuple[float, float] | None
    set_size: float | None
    empty: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCalibration:
    """What came of it.

    Attributes:
        task: The labels and the prompt.
        request: How.
        counts: How often each label is right.
        errors: How many records could not be used.
        held_out: How many inputs the figures are of.
        figures: Of each correction, by name.
        priors: What each takes out, logs.
        fit: Of the correction that was asked for, on the inputs not held out.
        fitted: Figures after it.
        conformal: The sets.
        scores: 1 - q of the truth of the inputs held out, ascending.
        model: Where the model is from, as `provenance` tells it.
    """

    task: LabelTask
    request: LabelCalibrationRequest
    counts: dict[str, int]
    errors: int
    held_out: int
    figures: dict[str, LabelFigures]
    priors: dict[str, tuple[float, ...] | None]
    fit: Fit
    fitted: LabelFigures
    conformal: Conformal
    scores: tuple[float, ...]
    model: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        bias = None
        if any(self.fit.bias):
            bias = dict(zip(self.task.labels, self.fit.bias, strict=True))
        return {
            "inputs": sum(self.counts.values()),
            "errors": self.errors,
            "held_out": self.held_out,
            "labels": self.counts,
            "template": self.task.template.text,
            "corrections": [
                {"correction": name, **asdict(each)} for name, each in self.figures.items()
            ],
            "fit": {
                "correction": self.request.correct,
                "scale": self.fit.scale,
                "bias": bias,
                **asdict(self.fitted),
            },
            "conformal": asdict(self.conformal),
            **self.model,
        }

    def values(self) -> dict[str, Any]:
        """What ``classify --calibration`` needs of it."""
        name = self.request.correct
        return {
            "labels": self.task.labels,
            "template": self.task.template.text,
            "examples": self.task.examples or None,
            "delimiter": self.task.delimiter,
            "bos": self.task.bos,
            "correction": name,
            "prior": self.priors[name],
            "gamma": self.request.gamma,
            "scale": self.fit.scale,
            "bias": self.fit.bias,
            "scores": self.scores,
        }


def calibrate_labels(
    model: LanguageModel,
    task: LabelTask,
    inputs: Iterable[LabelledInput],
    request: LabelCalibrationRequest,
    *,
    on_error: Callable[[Record, InvalidInput], None],
    on_input: Callable[[int], None] = lambda count: None,
) -> LabelCalibration:
    """Score labelled inputs, and see how right the probabilities are and what mends them.

    Args:
        model: The model.
        task: The labels and the prompt.
        inputs: What is known.
        request: How.
        on_error: Told of an input that cannot be scored.
        on_input: Told how many are done.

    Raises:
        InvalidInput: too few inputs for the sets asked for.
        NumericalError: the model's logits are NaN or infinite.
    """
    import numpy as np

    from llmcli.scoring.labels import corrected, fit_scale, label_figures, log_softmax

    rows: list[list[float]] = []
    truth: list[int] = []
    texts: list[str] = []
    errors = 0
    with label_scores(model, task) as score:
        for each in inputs:
            try:
                rows.append(score(task.prompt(each.record)))
            except InvalidInput as exc:
                errors += 1
                on_error(each.record, exc)
                continue
            truth.append(task.labels.index(each.label))
            texts.append(each.record.text)
            on_input(len(rows))
        if len(rows) < 2:
            raise InvalidInput("There are fewer than two labelled inputs.", "Give more.")
        priors: dict[str, tuple[float, ...] | None] = {
            "none": None,
            "contextual": tuple(data_free_prior(score, task, "contextual", None)),
            "domain": tuple(domain_prior(score, task, texts)),
            "batch": tuple(batch_prior(rows)),
            "pmi": tuple(data_free_prior(score, task, "pmi", request.domain)),
        }
    assert priors.keys() == set(get_args(Correction))
    scores, right = np.array(rows), np.array(truth)
    fitting, held = split_inputs(len(rows), request.holdout)
    logprobs = {
        name: log_softmax(scores)
        if prior is None
        else corrected(scores, np.array(prior), request.gamma)
        for name, prior in priors.items()
    }
    chosen = logprobs[request.correct]
    enough = np.bincount(right[fitting], minlength=len(task.labels)).min() >= LEAST_FOR_BIAS
    fit = fit_scale(chosen[fitting], right[fitting], bias=bool(enough))
    after = fit.apply(chosen[held])
    conformal, wrongness = _conformal(after, right[held], request.alpha)
    return LabelCalibration(
        task=task,
        request=request,
        counts=_counts(task, truth),
        errors=errors,
        held_out=len(held),
        figures={
            name: label_figures(each[held], right[held], bins=request.bins)
            for name, each in logprobs.items()
        },
        priors=priors,
        fit=fit,
        fitted=label_figures(after, right[held], bins=request.bins),
        conformal=conformal,
        scores=tuple(wrongness),
        model=provenance(model),
    )


def _counts(task: LabelTask, truth: list[int]) -> dict[str, int]:
    found = Counter(truth)
    return {label: found[index] for index, label in enumerate(task.labels)}


def split_inputs(count: int, holdout: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which inputs are fitted on, and which are held out: at random, and always the same ones."""
    import numpy as np

    order = np.random.Generator(np.random.PCG64(_SEED)).permutation(count)
    held = min(max(round(count * holdout), 1), count - 1)
    return order[held:], order[:held]


def _conformal(
    logprobs: npt.NDArray[np.float64], truth: npt.NDArray[np.int64], alpha: float
) -> tuple[Conformal, list[float]]:
    """Sets of inputs held out, and the scores they are of."""
    import numpy as np

    from llmcli.scoring.calibration import wilson
    from llmcli.scoring.labels import conformal_sets, conformal_threshold, least_for

    count = len(truth)
    if count < least_for(alpha):
        raise InvalidInput(
            f"Sets at --alpha {alpha:g} need {least_for(alpha)} inputs held out; there are "
            f"{count}.",
            "Give more labelled inputs, or a larger --alpha.",
        )
    wrongness = 1 - np.exp(logprobs[np.arange(count), truth])
    halves = np.arange(count) < count // 2
    covered: list[bool] = []
    sizes: list[int] = []
    if count // 2 >= least_for(alpha):
        for of, on in ((halves, ~halves), (~halves, halves)):
            sets = conformal_sets(logprobs[on], conformal_threshold(wrongness[of], alpha))
            for label, each in zip(truth[on].tolist(), sets, strict=True):
                covered.append(label in each)
                sizes.append(len(each))
    found = Conformal(
        alpha=alpha,
        inputs=count,
        threshold=conformal_threshold(wrongness, alpha),
        coverage=sum(covered) / count if covered else None,
        coverage_interval=wilson(sum(covered), count) if covered else None,
        set_size=sum(sizes) / count if covered else None,
        empty=sizes.count(0) / count if covered else None,
    )
    return found, sorted(float(each) for each in wrongness)


def save_labels(path: Path, model: LanguageModel, result: LabelCalibration) -> None:
    """Write what ``classify --calibration`` reads.

    Raises:
        StorageError: the disk does not take it.
    """
    from llmcli.models.calibration_file import write_calibration

    write_calibration(path, "labels", model, result.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedLabels:
    """A file of ``calibrate --labels --save``.

    Attributes:
        path: The file.
        task: The labels and the prompt that it is of.
        decision: How scores become probabilities; sets where there is an alpha.
        content: All that it holds.
    """

    path: str
    task: LabelTask
    decision: Decision
    content: dict[str, Any]

    @classmethod
    def read(cls, path: str, *, alpha: float | None) -> SavedLabels:
        """Read it.

        Raises:
            InvalidInput: it cannot be read, is no such file, or is of too few inputs for ``alpha``.
        """
        from llmcli.models.calibration_file import read_calibration

        found = read_calibration(path, "labels")
        try:
            task = LabelTask(
                labels=tuple(found["labels"]),
                template=Template.parse(found["template"]),
                examples=found.get("examples", ""),
                delimiter=found.get("delimiter"),
                bos=found.get("bos"),
            )
            prior, bias = found.get("prior"), tuple(map(float, found["bias"]))
            decision = Decision(
                correction=found["correction"],
                prior=None if prior is None else tuple(map(float, prior)),
                gamma=float(found["gamma"]),
                scale=float(found["scale"]),
                bias=bias,
                alpha=alpha,
                file=path,
                threshold=None if alpha is None else _threshold(path, found["scores"], alpha),
            )
            if {len(bias), len(decision.prior or bias)} != {len(task.labels)}:
                raise ValueError
        except (KeyError, TypeError, ValueError) as exc:
            raise InvalidInput(
                f"{path} lacks what a calibration of labels has.",
                "Write it anew with llmcli calibrate --labels --save.",
            ) from exc
        return cls(path=path, task=task, decision=decision, content=found)

    def check(self, model: LanguageModel) -> None:
        """Raise InvalidInput unless it is this model's."""
        from llmcli.models.calibration_file import check_owner

        check_owner(self.path, self.content, model)


def _threshold(path: str, scores: list[float], alpha: float) -> float:
    import numpy as np

    from llmcli.scoring.labels import conformal_threshold, least_for

    check_alpha(alpha)
    if len(scores) < least_for(alpha):
        raise InvalidInput(
            f"Sets at --alpha {alpha:g} need {least_for(alpha)} inputs; {path} is of "
            f"{len(scores)}.",
            "Calibrate on more labelled inputs, or give a larger --alpha.",
        )
    return conformal_threshold(np.array(scores, np.float64), alpha)

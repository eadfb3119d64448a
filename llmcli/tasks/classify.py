"""Which label fits a text: the labels' likelihoods, corrected as was asked for."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from llmcli.errors import InvalidInput
from llmcli.io.batch_run import Answer, one_by_one
from llmcli.io.records import Record
from llmcli.tasks.batch import Verb, made_by
from llmcli.tasks.labels import (
    Correction,
    LabelTask,
    Score,
    batch_prior,
    data_free_prior,
    domain_prior,
    label_scores,
)
from llmcli.tasks.provenance import provenance

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel

# From so many inputs on there is something to say about what `batch` would change.
_WORTH_A_NOTICE = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How scores of labels become probabilities, and sets of labels.

    Attributes:
        correction: Its name.
        prior: What it takes out, logs; None for nothing.
        gamma: How much of it.
        scale: What corrected log-probabilities are multiplied by, with ``bias`` added; fitted.
        bias: One number for each label; empty for none.
        alpha: The share of sets that may miss the truth; None for no sets.
        threshold: What 1 - q must not be above in a set.
        file: Where all this was read from, if it was.
    """

    correction: Correction = "none"
    prior: tuple[float, ...] | None = None
    gamma: float = 1.0
    scale: float = 1.0
    bias: tuple[float, ...] = ()
    alpha: float | None = None
    threshold: float | None = None
    file: str | None = None

    def logprobs(self, scores: Sequence[float]) -> list[float]:
        """The labels' log-probabilities, normalised."""
        import numpy as np

        from llmcli.scoring.labels import corrected, log_softmax

        found = np.array(scores)
        if self.prior is not None:
            found = corrected(found, np.array(self.prior), self.gamma)
        found = log_softmax(found * self.scale + (np.array(self.bias) if self.bias else 0.0))
        return [float(each) for each in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelAnswer:
    """A text's label and all that made it.

    Attributes:
        task: Which labels there were.
        scores: Their log-likelihoods, nats.
        logprobs: Their log-probabilities, after all corrections.
        decision: Which those are.
        model: Where the model is from, as `provenance` tells it.
    """

    task: LabelTask
    scores: Sequence[float]
    logprobs: Sequence[float]
    decision: Decision
    model: dict[str, Any]

    @property
    def prediction(self) -> str:
        """The likeliest label; of equals the first."""
        return self.task.labels[max(range(len(self.logprobs)), key=self.logprobs.__getitem__)]

    @property
    def probabilities(self) -> dict[str, float]:
        """By label."""
        import math

        return dict(zip(self.task.labels, map(math.exp, self.logprobs), strict=True))

    @property
    def chosen(self) -> list[str] | None:
        """The set of labels; None where none was asked for."""
        limit = self.decision.threshold
        if limit is None:
            return None
        return [label for label, chance in self.probabilities.items() if 1 - chance <= limit]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        chosen, decision = self.chosen, self.decision
        sets = {} if chosen is None else {"set": chosen, "alpha": decision.alpha}
        probabilities = self.probabilities
        return {
            "prediction": self.prediction,
            "probability": probabilities[self.prediction],
            **sets,
            "probabilities": probabilities,
            "logprobs": dict(zip(self.task.labels, self.scores, strict=True)),
            "correction": decision.correction,
            **({} if decision.file is None else {"calibration": {"file": decision.file}}),
            **self.model,
        }


def classify(
    model: LanguageModel, task: LabelTask, text: str, decision: Decision = Decision()
) -> LabelAnswer:
    """Label one text.

    Raises:
        InvalidInput: the prompt is too long, or the template names other fields.
        NumericalError: the model's logits are NaN or infinite.
    """
    with label_scores(model, task) as score:
        scores = score(task.prompt(Record(parts=(text,), single=True)))
    return _answer(model, task, decision, scores)


def _answer(
    model: LanguageModel, task: LabelTask, decision: Decision, scores: list[float]
) -> LabelAnswer:
    return LabelAnswer(
        task=task,
        scores=scores,
        logprobs=decision.logprobs(scores),
        decision=decision,
        model=provenance(model),
    )


@dataclass(slots=True)
class FirstPass:
    """Scores of inputs that were read before they are labelled, by their numbers."""

    labels: int
    rows: array[float] = field(default_factory=lambda: array("d"))
    numbers: dict[int, int] = field(default_factory=dict)

    def add(self, number: int, scores: Sequence[float]) -> None:
        """Keep the scores of an input."""
        self.numbers[number] = len(self.numbers)
        self.rows.extend(scores)

    def get(self, number: int) -> list[float] | None:
        """An input's scores, if they are there."""
        place = self.numbers.get(number)
        if place is None:
            return None
        return self.rows[place * self.labels : (place + 1) * self.labels].tolist()

    def table(self) -> Any:
        """All scores, [inputs, labels]."""
        import numpy as np

        return np.array(self.rows).reshape(-1, self.labels)


def decide(
    model: LanguageModel,
    task: LabelTask,
    correction: Correction,
    *,
    gamma: float = 1.0,
    domain: str | None = None,
    inputs: Iterable[Record] = (),
    on_input: Callable[[int], None] = lambda count: None,
) -> tuple[Decision, FirstPass]:
    """Find what a correction takes out.

    Args:
        model: The model.
        task: The task.
        correction: Its name.
        gamma: How much of the prior is taken out.
        domain: The prompt of ``pmi``; None for the template's text behind its last place.
        inputs: What ``batch`` and ``domain`` look at; what is wrong with one leaves it out.
        on_input: Told how many inputs were looked at.

    Returns:
        The decision, and the scores of the inputs that ``batch`` looked at.

    Raises:
        InvalidInput: there is no input to look at.
        NumericalError: the model's logits are NaN or infinite.
    """
    seen = FirstPass(len(task.labels))
    if correction == "none":
        return Decision(), seen
    with label_scores(model, task) as score:
        if correction == "batch":
            for count, record in enumerate(inputs, 1):
                scores = _score(score, task, record)
                if scores is not None:
                    seen.add(record.number, scores)
                on_input(count)
            if not seen.numbers:
                raise InvalidInput("There is no input to take the prior from.", "Give some.")
            prior = batch_prior(seen.table())
        elif correction == "domain":
            prior = domain_prior(score, task, (each.text for each in inputs if not each.error))
        else:
            prior = data_free_prior(score, task, correction, domain)
    return Decision(correction=correction, prior=tuple(prior), gamma=gamma), seen


def _score(score: Score, task: LabelTask, record: Record) -> list[float] | None:
    """A record's scores; None where it is wrong, which is told when its turn comes."""
    if record.error is not None:
        return None
    try:
        return score(task.prompt(record))
    except InvalidInput:
        return None


def classify_records(
    model: LanguageModel,
    task: LabelTask,
    decision: Decision,
    *,
    seen: FirstPass | None = None,
    notify: Callable[[str], None] = lambda text: None,
) -> Verb:
    """Label each record's text.

    Args:
        model: The model.
        task: Which labels there are, and how it is asked.
        decision: How their scores become probabilities.
        seen: Scores that are known already.
        notify: Told at the end what ``batch`` would have changed, where nothing was corrected.
    """
    kept = array("d")
    plain = decision == Decision()

    def work(records: Iterator[Record | None], should_stop: Callable[[], bool]) -> Iterator[Answer]:
        with label_scores(model, task) as score:

            def answer(record: Record) -> dict[str, Any]:
                prompt = task.prompt(record)
                known = None if seen is None else seen.get(record.number)
                scores = score(prompt) if known is None else known
                if plain:
                    kept.extend(scores)
                return _answer(model, task, decision, scores).to_dict()

            yield from one_by_one(answer)(records, should_stop)

    def tell() -> None:
        said = _what_batch_changes(task, kept)
        if said is not None:
            notify(said)

    return Verb(
        work=work,
        threads=model.threads or 1,
        made_by=made_by("classify", model, **task.to_dict(), **asdict(decision)),
        end=tell if plain else None,
    )


def _what_batch_changes(task: LabelTask, kept: array[float]) -> str | None:
    """A sentence about batch calibration; None for few inputs, or where nothing would change."""
    import numpy as np

    from llmcli.scoring.labels import corrected, mean_prior

    scores = np.array(kept).reshape(-1, len(task.labels))
    if len(scores) < _WORTH_A_NOTICE:
        return None
    prior = mean_prior(scores)
    changed = int((corrected(scores, prior).argmax(1) != scores.argmax(1)).sum())
    if not changed:
        return None
    best = int(prior.argmax())
    return (
        f"The model gives {task.labels[best]!r} {np.exp(prior[best]):.0%} of its probability over "
        f"these {len(scores):,} inputs. If that is bias, --correct batch takes it out and changes "
        f"{changed:,} answers."
    )

"""``llmcli score --vs``: a second model on the same text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmcli.cli.options import load_model
from llmcli.cli.score_job import ScoreJob, nothing_scored
from llmcli.errors import InvalidInput
from llmcli.terminal.score_progress import score_progress

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel
    from llmcli.scoring.comparison import Comparison
    from llmcli.scoring.statistics import Score
    from llmcli.scoring.windows import Convention


@dataclass(frozen=True, slots=True, kw_only=True)
class Versus:
    """Both models' scores of a text and how they differ."""

    other: LanguageModel
    convention: Convention
    first: Score
    second: Score
    comparison: Comparison


def compare(job: ScoreJob) -> Versus:
    """Score the text with both models in one pass.

    Raises:
        InvalidInput: an empty text, or a convention that cannot be compared across tokenizers.
    """
    options = job.options
    if job.settings.vs_precision is not None:
        options = replace(options, precision=job.settings.vs_precision)
    if job.settings.vs is not None:
        options = options.of(job.settings.vs)
    other = load_model(options, job.console)
    shared = _same_tokens(job.model, other)
    return _shared(job, other) if shared else _apart(job, other)


def _same_tokens(first: LanguageModel, second: LanguageModel) -> bool:
    ours, theirs = first.tokenizer.backend, second.tokenizer.backend
    return first.folder == second.folder or ours.to_str() == theirs.to_str()


def _shared(job: ScoreJob, other: LanguageModel) -> Versus:
    from llmcli.scoring.comparison import PairLikelihood, PairTally
    from llmcli.scoring.statistics import Score

    convention = job.convention(other, job.model)
    likelihood = PairLikelihood(
        job.model.decoder(), other.decoder(), batch_size=job.settings.batch_size
    )
    scorer = job.scorer(convention, likelihood=likelihood)
    pairs = PairTally()
    with score_progress(job.console, scorer) as progress:
        for _, window, scores in scorer.windows([(None, job.whole())]):
            pairs.add(window, scores)
            progress(window, scores)
    if not scorer.total.weight:
        raise nothing_scored("The text", scorer.total, convention, prompt=job.settings.prompt)
    first = scorer.total.score()
    comparison = pairs.comparison()
    second = Score(
        tokens=first.tokens,
        words=first.words,
        bytes=first.bytes,
        nll=first.nll + comparison.nll,
        complete=first.complete,
        interval=pairs.second_interval(),
        block_tokens=first.block_tokens,
    )
    return Versus(
        other=other, convention=convention, first=first, second=second, comparison=comparison
    )


def _apart(job: ScoreJob, other: LanguageModel) -> Versus:
    from llmcli.scoring.comparison import compare_by_bytes

    conventions = [job.convention(*pair) for pair in ((other, job.model), (job.model, other))]
    if not conventions[0].scores_every_token:
        raise InvalidInput(
            "Models with different tokenizers are compared over every byte.",
            "Use --convention default or lm-eval, with BOS.",
        )
    if job.settings.prompt:
        raise InvalidInput(
            "--prompt does not go with --vs and another tokenizer.", "Leave --prompt out."
        )
    first = job.scorer(conventions[0])
    second = job.scorer(conventions[1], model=other)
    comparison = compare_by_bytes(first, second, job.whole())
    if comparison is None:
        raise nothing_scored("The text", first.total, conventions[0])
    return Versus(
        other=other,
        convention=conventions[0],
        first=first.total.score(),
        second=second.total.score(),
        comparison=comparison,
    )


def comparison_record(comparison: Comparison, bits_per_byte: float | None) -> dict[str, Any]:
    """A comparison ready for JSON; differences are the second model's less the first's."""
    interval = comparison.interval
    return {
        "nll": comparison.nll,
        f"nll_per_{comparison.per}": comparison.mean,
        f"nll_per_{comparison.per}_interval": None if interval is None else list(interval),
        "bits_per_byte": bits_per_byte,
        "kl_divergence": comparison.kl_divergence,
        "same_top": comparison.same_top,
    }

"""How well a model predicts text: likelihoods gathered to figures, of one text, of many, of two
models.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llmcli.errors import GateFailed, InvalidInput
from llmcli.scoring.windows import PSEUDO
from llmcli.tasks.notebook import html_table
from llmcli.tasks.provenance import provenance
from llmcli.tasks.seen_tokens import SeenToken, SeenTokens

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel
    from llmcli.scoring.comparison import Comparison
    from llmcli.scoring.statistics import Score, Tally
    from llmcli.scoring.texts import TextScorer, WindowScorer
    from llmcli.scoring.token_scores import TokenScores
    from llmcli.scoring.windows import Convention, ConventionName, Window
    from llmcli.shapes import scores as shapes
    from llmcli.tokenization.tokenizer import SpecialTokens

OnWindow = Callable[["Window", "TokenScores"], None]
Watch = Callable[["TextScorer"], AbstractContextManager[OnWindow]]
"""Opens something that is told of each window as it is scored, such as a progress bar."""
OnToken = Callable[[int, SeenToken], None]
SortKey = Literal["perplexity", "nll", "bits-per-byte"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """How texts are scored.

    Attributes:
        convention: Which tokens count, given what.
        context: Tokens in a window; None for the convention's.
        stride: Tokens from one window to the next; None for the convention's.
        bos: Whether BOS stands before the first token; None for what the convention does.
        prompt: Read before each text, and not scored.
        special: What control tokens spelt out in a text are.
        batch_size: Windows run at once; None for a number of tokens.
        alternatives: How many tokens to list at each position; None where nothing but
            likelihoods count.
    """

    convention: ConventionName = "default"
    context: int | None = None
    stride: int | None = None
    bos: bool | None = None
    prompt: str = ""
    special: SpecialTokens = "text"
    batch_size: int | None = None
    alternatives: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """What a text must not be above.

    Attributes:
        max_ppl: Perplexity.
        max_bits_per_byte: Bits per byte.
    """

    max_ppl: float | None = None
    max_bits_per_byte: float | None = None

    def check(self, score: Score) -> None:
        """Hold the gates that were asked for.

        Raises:
            GateFailed: the text is above one of them.
            InvalidInput: the convention gives no such figure.
        """
        pseudo = "pseudo-" if score.pseudo else ""
        limits = (
            (f"{pseudo}perplexity", "--max-ppl", self.max_ppl, score.perplexity),
            (
                "bits per byte",
                "--max-bits-per-byte",
                self.max_bits_per_byte,
                score.bits_per_byte,
            ),
        )
        for name, flag, limit, value in limits:
            if limit is None:
                continue
            if value is None:
                raise InvalidInput(
                    f"{flag} needs every token scored.",
                    "Use --convention default or lm-eval, with BOS.",
                )
            if value > limit:
                raise GateFailed(f"The {name} is {value:.6g}, above {flag} {limit:g}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreAnswer:
    """A score and what it was made with.

    Attributes:
        score: The figures.
        request: What was asked for.
        convention: The windows it came to.
        seconds: How long it took.
        model: Where the model is from, as `provenance` tells it.
    """

    score: Score
    request: ScoreRequest
    convention: Convention
    seconds: float
    model: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            **figures(self.score),
            **interval_record(self.score),
            **convention_record(self.convention),
            **({"prompt": self.request.prompt} if self.request.prompt else {}),
            "seconds": self.seconds,
            "tokens_per_second": self.score.tokens / self.seconds,
            **self.model,
        }

    def _repr_html_(self) -> str:
        return html_table(["figure", "value"], list(figures(self.score).items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class VersusAnswer:
    """Two models' scores of a text and how they differ.

    Attributes:
        first: The first model's.
        second: The second's figures.
        other: Where the second is from.
        comparison: The difference.
    """

    first: ScoreAnswer
    second: Score
    other: dict[str, Any]
    comparison: Comparison

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        bits = (self.first.score.bits_per_byte, self.second.bits_per_byte)
        gap = None if bits[0] is None or bits[1] is None else bits[1] - bits[0]
        return {
            **self.first.to_dict(),
            "vs": {**figures(self.second), **interval_record(self.second), **self.other},
            "difference": comparison_record(self.comparison, gap),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """A loaded model, and how texts are scored with it.

    Attributes:
        model: The model.
        request: How.
    """

    model: LanguageModel
    request: ScoreRequest

    def convention(self, *models: LanguageModel) -> Convention:
        """The windows asked for, as large as the smallest of the models takes.

        Raises:
            InvalidInput: a setting is out of range or missing from the convention.
            UnsupportedModel: the convention is for another kind of model.
        """
        from llmcli.scoring.windows import make_convention

        for model in models or (self.model,):
            model.require_kind("masked" if self.request.convention in PSEUDO else "causal")
        chosen, tokenizer = self.request, (models or (self.model,))[-1].tokenizer
        bos = chosen.bos
        if bos is None and chosen.convention in ("hf", "llama.cpp"):
            bos = tokenizer.adds_bos
        for model in models or (self.model,):
            if chosen.context is not None and not model.states_context:
                model.limit_context(chosen.context)
        positions = min(model.n_positions for model in models or (self.model,))
        if chosen.convention in PSEUDO:
            positions -= sum(map(len, tokenizer.template))
        return make_convention(
            chosen.convention,
            n_positions=positions,
            bos_id=tokenizer.start_id,
            context=chosen.context,
            stride=chosen.stride,
            bos=bos,
            adds_bos=tokenizer.adds_bos,
        )

    def scorer(
        self,
        convention: Convention,
        *,
        likelihood: WindowScorer | None = None,
        model: LanguageModel | None = None,
    ) -> TextScorer:
        """What scores texts with the model (with another ``model``)."""
        from llmcli.scoring.likelihood import Likelihood
        from llmcli.scoring.texts import TextScorer
        from llmcli.tasks.pseudo import pseudo_likelihood

        model = model or self.model
        if likelihood is None and convention.pseudo:
            likelihood = pseudo_likelihood(model, convention, self.request)
        elif likelihood is None:
            likelihood = Likelihood(
                model.decoder(),
                batch_size=self.request.batch_size,
                top=self.request.alternatives,
            )
        return TextScorer(
            tokenizer=model.tokenizer,
            convention=convention,
            likelihood=likelihood,
            prompt=self.request.prompt,
            special=self.request.special,
        )

    def answer(self, score: Score, convention: Convention, start: float) -> ScoreAnswer:
        """A score with all that made it; ``start`` is when `time.perf_counter` began."""
        return ScoreAnswer(
            score=score,
            request=self.request,
            convention=convention,
            seconds=time.perf_counter() - start,
            model=provenance(self.model),
        )

    def whole(self, parts: Iterable[str], watch: Watch) -> ScoreAnswer:
        """Score one text, which is read as it is scored.

        Raises:
            InvalidInput: there is nothing in it to score.
        """
        start = time.perf_counter()
        convention = self.convention()
        scorer = self.scorer(convention)
        with watch(scorer) as watcher:

            def tell(key: None, window: Window, scores: TokenScores) -> None:
                watcher(window, scores)

            ((_, tally),) = scorer.run([(None, iter(parts))], on_window=tell)
        if not tally.weight:
            raise nothing_scored("The text", tally, convention, prompt=self.request.prompt)
        return self.answer(tally.score(), convention, start)

    def versus(
        self,
        other: LanguageModel,
        parts: Iterable[str],
        watch: Watch,
        on_token: OnToken | None = None,
    ) -> VersusAnswer:
        """Score a text with this model and with another, in one pass.

        ``on_token`` is told of each token of this model (0) and of the other (1), with the
        alternatives where the request asks for them.

        Raises:
            InvalidInput: an empty text, or a convention that cannot be compared across
                tokenizers.
        """
        start = time.perf_counter()
        compared = self._shared if _same_tokens(self.model, other) else self._apart
        convention, first, second, comparison = compared(other, parts, watch, on_token)
        return VersusAnswer(
            first=self.answer(first, convention, start),
            second=second,
            other=provenance(other),
            comparison=comparison,
        )

    def _shared(
        self,
        other: LanguageModel,
        parts: Iterable[str],
        watch: Watch,
        on_token: OnToken | None,
    ) -> tuple[Convention, Score, Score, Comparison]:
        from llmcli.scoring.comparison import PairLikelihood, PairTally
        from llmcli.scoring.statistics import Score

        convention = self.convention(other, self.model)
        likelihood = PairLikelihood(
            self.model.decoder(),
            other.decoder(),
            batch_size=self.request.batch_size,
            top=self.request.alternatives,
        )
        scorer = self.scorer(convention, likelihood=likelihood)
        pairs = PairTally()
        seen = SeenTokens(scorer), SeenTokens(scorer)
        with watch(scorer) as progress:
            for _, window, scores in scorer.windows([(None, iter(parts))]):
                pairs.add(window, scores)
                progress(window, scores)
                if on_token is not None:
                    for which, own in enumerate((scores, scores.of_other())):
                        for token in seen[which].of(window, own):
                            on_token(which, token)
        if not scorer.total.weight:
            raise nothing_scored("The text", scorer.total, convention, prompt=self.request.prompt)
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
        return convention, first, second, comparison

    def _apart(
        self,
        other: LanguageModel,
        parts: Iterable[str],
        watch: Watch,
        on_token: OnToken | None,
    ) -> tuple[Convention, Score, Score, Comparison]:
        from llmcli.scoring.comparison import compare_by_bytes

        conventions = [
            self.convention(*pair) for pair in ((other, self.model), (self.model, other))
        ]
        if not conventions[0].scores_every_token:
            raise InvalidInput(
                "Models with different tokenizers are compared over every byte.",
                "Use --convention default or lm-eval, with BOS.",
            )
        if self.request.prompt:
            raise InvalidInput(
                "--prompt does not go with --vs and another tokenizer.", "Leave --prompt out."
            )
        first = self.scorer(conventions[0])
        second = self.scorer(conventions[1], model=other)
        seen = SeenTokens(first), SeenTokens(second)
        with watch(first) as progress:

            def tell(which: int, window: Window, scores: TokenScores) -> None:
                if which == 0:
                    progress(window, scores)
                if on_token is not None:
                    for token in seen[which].of(window, scores):
                        on_token(which, token)

            comparison = compare_by_bytes(first, second, iter(parts), on_window=tell)
        if comparison is None:
            raise nothing_scored("The text", first.total, conventions[0])
        return conventions[0], first.total.score(), second.total.score(), comparison


def _same_tokens(first: LanguageModel, second: LanguageModel) -> bool:
    ours, theirs = first.tokenizer.backend, second.tokenizer.backend
    return first.folder == second.folder or ours.to_str() == theirs.to_str()


def figures(score: Score) -> dict[str, Any]:
    """A score ready for JSON; what a masked model gives is named pseudo-."""
    counts = {"tokens": score.tokens, "words": score.words, "bytes": score.bytes}
    likelihoods = {
        "nll": score.nll,
        "nll_per_token": score.nll_per_token,
        "perplexity": score.perplexity,
        "word_perplexity": score.word_perplexity,
        "byte_perplexity": score.byte_perplexity,
        "bits_per_byte": score.bits_per_byte,
    }
    prefix = "pseudo_" if score.pseudo else ""
    return {**counts, **{f"{prefix}{name}": value for name, value in likelihoods.items()}}


def interval_record(score: Score) -> dict[str, Any]:
    """The interval of the perplexity and how it was made, ready for JSON."""
    prefix = "pseudo_" if score.pseudo else ""
    return {
        f"{prefix}perplexity_interval": None if score.interval is None else list(score.interval),
        "interval": {
            "level": 0.95,
            "method": "block bootstrap",
            "block_tokens": score.block_tokens,
        },
    }


def convention_record(convention: Convention) -> shapes.Convention:
    """A convention ready for JSON."""
    return {
        "convention": convention.name,
        "context": convention.context,
        "stride": convention.stride,
        "bos": convention.bos is not None,
    }


def nothing_scored(
    place: str, tally: Tally, convention: Convention, *, prompt: str = ""
) -> InvalidInput:
    """Why a text has no score."""
    if not tally.counts.bytes:
        return InvalidInput(f"{place} is empty.", "Give some text.")
    if prompt:
        return InvalidInput(
            f"{place} has no token of its own: the prompt's last token spans the join with it.",
            "End --prompt where a word ends, or put that word into the text as a whole.",
        )
    if convention.bos is None:
        return InvalidInput(
            f"{place} has one token, and without BOS nothing stands before it.",
            "Give a longer text, or --bos.",
        )
    return InvalidInput(f"{place} has no tokens.", "Give some text.")


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


def height(key: str | None, score: Score) -> float:
    if key == "nll":
        return score.nll
    value = score.bits_per_byte if key == "bits-per-byte" else score.perplexity
    return -math.inf if value is None else value

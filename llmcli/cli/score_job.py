"""Scoring for the command line: a loaded model, its convention, figures ready for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmcli.cli.score_settings import ScoreSettings
from llmcli.errors import GateFailed, InvalidInput
from llmcli.io.records import Record, Source, Watch, records
from llmcli.models.options import LoadOptions
from llmcli.terminal.console import Console

if TYPE_CHECKING:
    from llmcli.io.sources import DecodeErrors
    from llmcli.models.language_model import LanguageModel
    from llmcli.scoring.likelihood import Likelihood
    from llmcli.scoring.statistics import Score, Tally
    from llmcli.scoring.texts import TextScorer
    from llmcli.scoring.windows import Convention


@dataclass(slots=True, kw_only=True)
class ScoreJob:
    """A call's settings, model and input."""

    console: Console
    settings: ScoreSettings
    options: LoadOptions
    model: LanguageModel
    sources: list[Source]
    errors: DecodeErrors
    watch: Watch | None = None

    def convention(self, *models: LanguageModel) -> Convention:
        """The windows asked for, as large as the smallest of the models takes.

        Raises:
            InvalidInput: a setting is out of range or missing from the convention.
        """
        from llmcli.scoring.windows import make_convention

        chosen, tokenizer = self.settings, (models or (self.model,))[-1].tokenizer
        bos = chosen.bos
        if bos is None and chosen.convention in ("hf", "llama.cpp"):
            bos = tokenizer.adds_bos
        for model in models or (self.model,):
            if chosen.context is not None and not model.states_context:
                model.limit_context(chosen.context)
        return make_convention(
            chosen.convention,
            n_positions=min(model.n_positions for model in models or (self.model,)),
            bos_id=tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id,
            context=chosen.context,
            stride=chosen.stride,
            bos=bos,
            adds_bos=tokenizer.adds_bos,
        )

    def scorer(
        self,
        convention: Convention,
        *,
        likelihood: Likelihood | None = None,
        model: LanguageModel | None = None,
    ) -> TextScorer:
        """What scores texts with the model (with another ``model``)."""
        from llmcli.scoring.likelihood import Likelihood
        from llmcli.scoring.texts import TextScorer

        model = model or self.model
        if likelihood is None:
            likelihood = Likelihood(
                model.decoder(),
                batch_size=self.settings.batch_size,
                top=self.settings.alternatives,
            )
        return TextScorer(
            tokenizer=model.tokenizer,
            convention=convention,
            likelihood=likelihood,
            prompt=self.settings.prompt,
            special=self.settings.special,
        )

    def records(self) -> Iterator[Record]:
        """The input's records, or lines."""
        return records(
            self.sources,
            kind=self.settings.kind,
            errors=self.errors,
            text_field=self.settings.field,
            watch=self.watch,
        )

    def whole(self) -> Iterator[str]:
        """All input as one text, in parts."""
        for record in self.records():
            yield from record.parts

    def check(self, score: Score) -> None:
        """Hold the gates that were asked for.

        Raises:
            GateFailed: the text is above one of them.
            InvalidInput: the convention gives no such figure.
        """
        limits = (
            ("perplexity", "--max-ppl", self.settings.max_ppl, score.perplexity),
            (
                "bits per byte",
                "--max-bits-per-byte",
                self.settings.max_bits_per_byte,
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


def figures(score: Score) -> dict[str, Any]:
    """A score ready for JSON."""
    return {
        "tokens": score.tokens,
        "words": score.words,
        "bytes": score.bytes,
        "nll": score.nll,
        "nll_per_token": score.nll_per_token,
        "perplexity": score.perplexity,
        "word_perplexity": score.word_perplexity,
        "byte_perplexity": score.byte_perplexity,
        "bits_per_byte": score.bits_per_byte,
    }


def interval_record(score: Score) -> dict[str, Any]:
    """The interval of the perplexity and how it was made, ready for JSON."""
    return {
        "perplexity_interval": None if score.interval is None else list(score.interval),
        "interval": {
            "level": 0.95,
            "method": "block bootstrap",
            "block_tokens": score.block_tokens,
        },
    }


def convention_record(convention: Convention) -> dict[str, Any]:
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


def paragraphs(lines: Iterable[Record]) -> Iterator[Record]:
    """Lines joined into paragraphs, which blank lines part; a record each."""
    held: list[str] = []
    first: Record | None = None
    for line in lines:
        text = "" if line.error else line.text
        if line.error or not text.strip() or (first and first.name != line.name):
            if first is not None:
                yield _paragraph(first, held)
            held, first = [], None
        if line.error:
            yield line
        elif text.strip():
            first = first or line
            held.append(text)
    if first is not None:
        yield _paragraph(first, held)


def _paragraph(first: Record, lines: list[str]) -> Record:
    place = first.place.replace("Line", "The paragraph at line", 1)
    return Record(parts=("\n".join(lines),), place=place, name=first.name)

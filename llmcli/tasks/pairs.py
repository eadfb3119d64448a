"""Minimal pairs: how often a model finds the good sentence of two the likelier."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmcli.errors import InvalidInput
from llmcli.io.records import Record
from llmcli.tasks.provenance import provenance
from llmcli.tasks.score import convention_record

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel


@dataclass(slots=True)
class PairTally:
    """Sums over pairs.

    Attributes:
        pairs: How many.
        good: In how many the good sentence is likelier.
        ties: In how many both are as likely.
        ratio: Summed log-likelihood of the good ones less the bad ones', nats.
        squares: Of these differences, summed.
    """

    pairs: int = 0
    good: int = 0
    ties: int = 0
    ratio: float = 0.0
    squares: float = 0.0

    def add(self, ratio: float) -> None:
        """Add a pair: log-likelihood of the good sentence less that of the bad one."""
        self.pairs += 1
        self.good += ratio > 0
        self.ties += ratio == 0
        self.ratio += ratio
        self.squares += ratio * ratio

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; there must be a pair."""
        from llmcli.scoring.calibration import wilson

        mean = self.ratio / self.pairs
        spread = None
        if self.pairs > 1:
            variance = (self.squares - self.pairs * mean * mean) / (self.pairs - 1)
            spread = math.sqrt(max(variance, 0.0) / self.pairs)
        return {
            "pairs": self.pairs,
            "share": self.good / self.pairs,
            "share_interval": list(wilson(self.good, self.pairs)),
            "ties": self.ties,
            "log_ratio": mean,
            "log_ratio_error": spread,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsAnswer:
    """All pairs together, and by group.

    Attributes:
        total: All of them.
        groups: By the field that was asked for, in the order of their coming.
        errors: How many records have no pair.
        made_with: The fields, the windows and the model, ready for JSON.
    """

    total: PairTally
    groups: dict[str, PairTally]
    errors: int
    made_with: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        groups = [{"group": name, **each.to_dict()} for name, each in self.groups.items()]
        return {
            **self.total.to_dict(),
            "errors": self.errors,
            "groups": groups,
            **self.made_with,
        }


@dataclass(slots=True)
class _Pairs:
    """Pairs on their way through the model."""

    good: str
    bad: str
    by: str | None
    on_error: Callable[[Record, InvalidInput], None]
    total: PairTally = field(default_factory=PairTally)
    groups: dict[str, PairTally] = field(default_factory=dict)
    errors: int = 0

    def texts(self, records: Iterable[Record]) -> Iterator[tuple[Record, list[str]]]:
        """Both sentences of each record, the good one first."""
        for record in records:
            wrong = record.error or self._wrong(record)
            if wrong is not None:
                self.errors += 1
                self.on_error(record, wrong)
                continue
            yield record, [record.fields[self.good]]
            yield record, [record.fields[self.bad]]

    def _wrong(self, record: Record) -> InvalidInput | None:
        for name, flag in ((self.good, "--good"), (self.bad, "--bad")):
            text = record.fields.get(name)
            if not isinstance(text, str) or not text:
                return InvalidInput(
                    f"{record.place} has no text in the field {name!r}.",
                    f"Name the field with {flag}.",
                )
        if self.by is not None and record.fields.get(self.by) is None:
            return InvalidInput(
                f"{record.place} has no field {self.by!r}.", "Name the field with --by."
            )
        return None

    def add(self, record: Record, ratio: float) -> None:
        """Add a pair."""
        self.total.add(ratio)
        if self.by is not None:
            value = record.fields[self.by]
            name = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            self.groups.setdefault(name, PairTally()).add(ratio)


def compare_pairs(
    model: LanguageModel,
    records: Iterable[Record],
    *,
    good: str,
    bad: str,
    by: str | None = None,
    on_error: Callable[[Record, InvalidInput], None],
    on_pair: Callable[[int], None] = lambda count: None,
) -> PairsAnswer:
    """Compare the two sentences of each record; every token of them counts, from BOS on.

    Args:
        model: The model.
        records: What to compare.
        good: The field of the sentence that should be likelier.
        bad: That of the other.
        by: A field to group by.
        on_error: Told of a record that has no pair.
        on_pair: Told how many pairs are done.

    Raises:
        InvalidInput: there is no pair, or the tokenizer has no token to begin a text with.
        NumericalError: the model's logits are NaN or infinite.
    """
    from llmcli.scoring.likelihood import Likelihood
    from llmcli.scoring.texts import TextScorer
    from llmcli.scoring.windows import make_convention

    tokenizer = model.tokenizer
    convention = make_convention(
        "default",
        n_positions=model.n_positions,
        bos_id=tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id,
    )
    scorer = TextScorer(
        tokenizer=tokenizer, convention=convention, likelihood=Likelihood(model.decoder())
    )
    pairs = _Pairs(good, bad, by, on_error)
    first: float | None = None
    for record, tally in scorer.run(pairs.texts(records)):
        if first is None:
            first = tally.nll
            continue
        pairs.add(record, tally.nll - first)
        first = None
        on_pair(pairs.total.pairs)
    if not pairs.total.pairs:
        raise InvalidInput("There is no pair to compare.", "Name the fields with --good and --bad.")
    made_with = {
        "good": good,
        "bad": bad,
        "by": by,
        **convention_record(convention),
        **provenance(model),
    }
    return PairsAnswer(
        total=pairs.total, groups=pairs.groups, errors=pairs.errors, made_with=made_with
    )

"""What a masked model expects in each gap of a text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmcli.errors import ContextOverflow, InvalidInput
from llmcli.io.batch_run import one_by_one
from llmcli.tasks.batch import Verb, made_by
from llmcli.tasks.notebook import html_table
from llmcli.tasks.provenance import provenance

if TYPE_CHECKING:
    from llmcli.engine.params import TopToken
    from llmcli.io.records import Record
    from llmcli.models.language_model import LanguageModel

GAP = "[MASK]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A gap and what may be in it.

    Attributes:
        position: Its place among the text's tokens, from 0.
        candidates: The likeliest tokens, best first.
        entropy: Of the model's distribution, in nats.
    """

    position: int
    candidates: tuple[TopToken, ...]
    entropy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FillAnswer:
    """The gaps of a text, and all that made them.

    Attributes:
        text: The text.
        gaps: What may be in each, in order.
        data: The bytes of each candidate's token.
        tokens: How many tokens the text has.
        model: Where the model is from, as `provenance` tells it.
    """

    text: str
    gaps: tuple[Gap, ...]
    data: dict[int, bytes]
    tokens: int
    model: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "text": self.text,
            "gaps": [
                {
                    "position": gap.position,
                    "entropy": gap.entropy,
                    "candidates": [
                        {
                            "id": each.id,
                            "token": self.data[each.id].decode("utf-8", "replace"),
                            "bytes": list(self.data[each.id]),
                            "probability": math.exp(each.logprob),
                            "logprob": each.logprob,
                        }
                        for each in gap.candidates
                    ],
                }
                for gap in self.gaps
            ],
            "tokens": self.tokens,
            **self.model,
        }

    def _repr_html_(self) -> str:
        rows = [
            [number, self.data[each.id].decode("utf-8", "replace"), each.id,
             math.exp(each.logprob), each.logprob]
            for number, gap in enumerate(self.gaps, start=1)
            for each in gap.candidates
        ]  # fmt: skip
        return html_table(["gap", "token", "id", "probability", "logprob"], rows)


def fill_gaps(model: LanguageModel, text: str, *, count: int = 10) -> FillAnswer:
    """Tell what may be in each gap of a text, the other gaps left open.

    Args:
        model: A masked model.
        text: With ``[MASK]``, or the model's own token, for each gap.
        count: How many tokens to tell for each.

    Raises:
        InvalidInput: no gap, or another control token.
        ContextOverflow: the text is too long.
        NumericalError: the logits are NaN or infinite.
        UnsupportedModel: the tokenizer has no token for a gap.
    """
    from llmcli.engine.sampling import check_logits, entropy, top_tokens

    ids = _encode(model, text)
    before, after = model.tokenizer.template
    room = model.n_positions - len(before) - len(after)
    if len(ids) > room:
        raise ContextOverflow(
            f"The text has {len(ids)} tokens; {model.name} reads {room} at once.", "Shorten it."
        )
    places = [place for place, token in enumerate(ids) if token == model.mask_id]
    logits = model.masked().logits(
        [[*before, *ids, *after]] * len(places), [len(before) + place for place in places]
    )
    gaps = []
    for place, row in zip(places, logits, strict=True):
        check_logits(row, place)
        gaps.append(Gap(position=place, candidates=top_tokens(row, count), entropy=entropy(row)))
    return FillAnswer(
        text=text,
        gaps=tuple(gaps),
        data={each.id: model.token_bytes(each.id) for gap in gaps for each in gap.candidates},
        tokens=len(ids),
        model=provenance(model),
    )


def fill_records(model: LanguageModel, *, count: int = 10) -> Verb:
    """Tell what may be in the gaps of each record's text."""

    def answer(record: Record) -> dict[str, Any]:
        return fill_gaps(model, record.text, count=count).to_dict()

    return Verb(
        work=one_by_one(answer, tokens=lambda made: int(made["tokens"])),
        made_by=made_by("fill", model, count=count),
    )


def _encode(model: LanguageModel, text: str) -> list[int]:
    """A text's tokens, with the model's own one for each gap."""
    tokenizer, mask = model.tokenizer, model.mask_id
    own = tokenizer.token_string(mask)
    ids = tokenizer.ids(text.replace(GAP, own), special="allow")
    if mask not in ids:
        raise InvalidInput(f"The text has no {GAP}.", f"Put {GAP} where a word is missing.")
    # A text may hold what an unknown character becomes, which is a control token, too.
    other = next((i for i in ids if i in tokenizer.special_ids - {mask}), None)
    if other is not None and tokenizer.token_string(other) in text:
        raise InvalidInput(
            f"The text holds the special token {tokenizer.token_string(other)!r}.", "Leave it out."
        )
    return ids

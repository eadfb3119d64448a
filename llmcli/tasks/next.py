"""The distribution of the next token, and what each sampling filter leaves of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcli.engine.decoder import Decoder, Floats
from llmcli.engine.history import History
from llmcli.engine.params import SamplingParams
from llmcli.engine.sampling import (
    check_logits,
    check_shaped,
    entropy,
    filter_steps,
    log_sum_exp,
    most_likely,
    penalize,
    softmax,
    top_tokens,
)
from llmcli.engine.transcript import Prompt
from llmcli.io.batch_run import one_by_one
from llmcli.tasks.batch import Verb, made_by
from llmcli.tasks.notebook import html_table
from llmcli.tasks.prompts import (
    encode_prompt,
    prepare_prompt,
    sampling_params,
)
from llmcli.tasks.provenance import provenance, settings_record

if TYPE_CHECKING:
    from llmcli.io.records import Record
    from llmcli.models.language_model import LanguageModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A token that may come next.

    Attributes:
        id: The token.
        logprob: Natural log of the model's own probability.
        sampled_logprob: The same in the distribution that would be drawn from; None where the
            filters leave the token out.
    """

    id: int
    logprob: float
    sampled_logprob: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterEffect:
    """What is left after a filter (and those before it).

    Attributes:
        name: The setting, as SamplingParams spells it; "penalties" for all of those.
        value: Its value; None for the penalties.
        kept: How many tokens can still be drawn.
        mass: Their probability before this step, in the distribution the step was given.
        entropy: Of what is left, in nats.
    """

    name: str
    value: float | None
    kept: int
    mass: float
    entropy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NextToken:
    """The next token's distribution.

    Attributes:
        candidates: The most likely tokens by the model's own distribution, best first.
        entropy: Of the model's own distribution, in nats.
        filters: The steps from there to the distribution drawn from.
    """

    candidates: tuple[Candidate, ...]
    entropy: float
    filters: tuple[FilterEffect, ...]


def next_token(
    decoder: Decoder,
    prompt: Prompt,
    params: SamplingParams,
    *,
    count: int,
    eos_ids: tuple[int, ...] = (),
) -> NextToken:
    """Read a prompt and tell what may follow it.

    Args:
        decoder: The model.
        prompt: At least one token.
        params: The filters; temperature 0 leaves the most likely token alone.
        count: How many candidates.
        eos_ids: Tokens that end a text (min_new_tokens forbids them).

    Raises:
        NumericalError: the logits are NaN or infinite.
        InvalidInput: the settings forbid every token.
    """
    slot = decoder.open()
    try:
        logits = decoder.append([(slot, prompt.ids)], prompt=True)[0]
    finally:
        decoder.close(slot)
    check_logits(logits, len(prompt.ids))
    history = History(prompt.ids, ngram_size=params.no_repeat_ngram_size)
    shaped = penalize(logits, params, history, eos_ids=eos_ids)
    check_shaped(shaped)
    effects = []
    if not np.array_equal(shaped, logits):
        effects.append(_effect("penalties", None, logits, shaped))
    for name, value, apply in filter_steps(params):
        before, shaped = shaped, apply(shaped)
        effects.append(_effect(name, value, before, shaped))
    if params.greedy:
        before, best = shaped, most_likely(shaped)
        shaped = np.full_like(before, -math.inf)
        shaped[best] = before[best]
        effects.append(_effect("temperature", 0.0, before, shaped))
    total = log_sum_exp(shaped)
    candidates = tuple(
        Candidate(
            id=each.id,
            logprob=each.logprob,
            sampled_logprob=float(kept) - total if (kept := shaped[each.id]) > -math.inf else None,
        )
        for each in top_tokens(logits, count)
    )
    return NextToken(candidates=candidates, entropy=entropy(logits), filters=tuple(effects))


def _effect(name: str, value: float | None, before: Floats, after: Floats) -> FilterEffect:
    left = after > -math.inf
    return FilterEffect(
        name=name,
        value=value,
        kept=int(left.sum()),
        mass=float(softmax(before)[left].sum(dtype=np.float64)),
        entropy=entropy(after),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NextAnswer:
    """What may follow a prompt, and all that made it.

    Attributes:
        next: The distribution.
        data: The bytes of each candidate.
        params: The settings.
        prompt_tokens: How many tokens the prompt has.
        model: Where the model is from, as `provenance` tells it.
    """

    next: NextToken
    data: tuple[bytes, ...]
    params: SamplingParams
    prompt_tokens: int
    model: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "candidates": [
                _candidate(each, data)
                for each, data in zip(self.next.candidates, self.data, strict=True)
            ],
            "entropy": self.next.entropy,
            "filters": [asdict(each) for each in self.next.filters],
            "prompt_tokens": self.prompt_tokens,
            **self.model,
            "sampling": settings_record(self.params),
        }

    def _repr_html_(self) -> str:
        rows = [
            [data.decode("utf-8", "replace"), each.id, math.exp(each.logprob), each.logprob]
            for each, data in zip(self.next.candidates, self.data, strict=True)
        ]
        return html_table(["token", "id", "probability", "logprob"], rows)


def _candidate(each: Candidate, data: bytes) -> dict[str, Any]:
    sampled = each.sampled_logprob
    return {
        "id": each.id,
        "token": data.decode("utf-8", "replace"),
        "bytes": list(data),
        "probability": math.exp(each.logprob),
        "logprob": each.logprob,
        "sampled_probability": 0.0 if sampled is None else math.exp(sampled),
        "sampled_logprob": sampled,
    }


def predict(
    model: LanguageModel,
    text: str,
    given: Mapping[str, Any],
    *,
    count: int = 10,
    bos: bool = False,
) -> NextAnswer:
    """Tell what may follow a text.

    Args:
        model: The model.
        text: The prompt.
        given: Settings, by SamplingParams' names.
        count: How many candidates.
        bos: Put the begin-of-text token first.

    Raises:
        InvalidInput: a setting is wrong, or the prompt is empty or too long.
        NumericalError: the logits are NaN or infinite.
    """
    params = _params(model, given)
    ids = encode_prompt(model, text, bos=bos, overflow=params.overflow)
    prompt = prepare_prompt(model, ids, params, room=0)
    found = next_token(model.decoder(), prompt, params, count=count, eos_ids=model.eos_ids)
    return NextAnswer(
        next=found,
        data=tuple(model.token_bytes(each.id) for each in found.candidates),
        params=params,
        prompt_tokens=len(ids),
        model=provenance(model),
    )


def predict_records(
    model: LanguageModel, given: Mapping[str, Any], *, count: int = 10, bos: bool = False
) -> Verb:
    """Tell what may follow each record's text; arguments as for :func:`predict`."""

    def answer(record: Record) -> dict[str, Any]:
        return predict(model, record.text, given, count=count, bos=bos).to_dict()

    return Verb(
        work=one_by_one(answer, tokens=lambda made: int(made["prompt_tokens"])),
        threads=model.threads or 1,
        made_by=made_by(
            "next",
            model,
            sampling=settings_record(_params(model, given)),
            count=count,
            bos=bos,
        ),
    )


def _params(model: LanguageModel, given: Mapping[str, Any]) -> SamplingParams:
    return sampling_params(model, {**given, "max_new_tokens": None, "num_beams": 1})

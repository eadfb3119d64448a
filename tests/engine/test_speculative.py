"""Speculative decoding: the same tokens, the same distribution, bounded loss."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from toy_decoder import ToyDecoder

from llmcli.engine.decoder import Floats
from llmcli.engine.generation import generate
from llmcli.engine.grammar.constraint import Constraint
from llmcli.engine.params import DraftStats, SamplingParams
from llmcli.engine.sampling import filter_logits, softmax
from llmcli.engine.speculative import (
    LONGEST,
    Draft,
    ModelDraft,
    NgramDraft,
    Speculation,
)
from llmcli.engine.transcript import Prompt

VOCAB = 24


def _model(seed: int) -> ToyDecoder:
    return ToyDecoder(VOCAB, 96, seed=seed)


class Scripted:
    """Proposes what a function of the context says."""

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def propose(
        self,
        context: Sequence[int],
        count: int,
        *,
        params: SamplingParams,
        numbers: Callable[[int], float],
        constraint: Constraint | None = None,
    ) -> list[int]:
        return [(context[-1] + self.offset * (i + 1)) % VOCAB for i in range(count)]


def _drafts() -> Iterator[Draft]:
    yield NgramDraft()
    yield NgramDraft(longest=1, shortest=1)
    yield Scripted(1)
    yield ModelDraft(_model(5))
    yield ModelDraft(_model(6))


def _tokens(params: SamplingParams, draft: Draft | None, **options: Any) -> list[int | None]:
    events = generate(
        _model(5),
        Prompt(ids=(1, 2, 3, 1, 2)),
        params,
        token_bytes=lambda token: bytes([97 + token]),
        draft=draft,
        **options,
    )
    return [event.token_id for event in events]


@pytest.fixture
def always_propose(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the clock out of it: proposals at every step from the second on."""
    monkeypatch.setattr(Speculation, "_affordable", lambda self: True)


@pytest.mark.usefixtures("always_propose")
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0, max_new_tokens=60),
        SamplingParams(temperature=0, max_new_tokens=40, repetition_penalty=1.3),
        SamplingParams(seed=1, max_new_tokens=60),
        SamplingParams(seed=2, max_new_tokens=60, temperature=0.5, top_p=0.9, logprobs=2),
        SamplingParams(seed=3, max_new_tokens=30, num_return_sequences=3, top_k=3),
        SamplingParams(seed=4, max_new_tokens=250, overflow="slide"),
        SamplingParams(seed=5, max_new_tokens=None),
    ],
)
def test_the_same_tokens_with_and_without_a_draft(params: SamplingParams) -> None:
    expected = _tokens(params, None)
    for draft in _drafts():
        stats = DraftStats()
        assert _tokens(params, draft, draft_stats=stats) == expected
        assert stats.accepted <= stats.proposed


@pytest.mark.usefixtures("always_propose")
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_model_as_its_own_draft_is_always_right(temperature: float) -> None:
    stats = DraftStats()
    params = SamplingParams(temperature=temperature, seed=7, max_new_tokens=80)
    _tokens(params, ModelDraft(_model(5)), draft_stats=stats)
    assert stats.accepted >= 60
    # What is left over at the end was never asked for.
    assert stats.proposed - stats.accepted <= LONGEST


@pytest.mark.usefixtures("always_propose")
@pytest.mark.parametrize("draft_seed", [5, 6])
def test_sampled_text_has_the_models_distribution(draft_seed: int) -> None:
    """Chi-square over pairs of tokens: the second and third after the prompt."""
    draws = 900
    params = SamplingParams(temperature=0.9, top_k=3, max_new_tokens=3)
    prompt = [1, 2, 3]
    counts: Counter[tuple[int, ...]] = Counter()
    draft = ModelDraft(_model(draft_seed))
    decoder = _model(5)
    for record in range(draws):
        events = generate(
            decoder,
            Prompt(ids=tuple(prompt)),
            params,
            token_bytes=lambda token: bytes([97 + token]),
            record=record,
            draft=draft,
        )
        counts[tuple(event.token_id or 0 for event in events)] += 1
    expected = {
        tokens: probability * draws for tokens, probability in _paths(decoder, params, prompt, 3)
    }
    assert set(counts) <= set(expected)
    # Rare outcomes go together, so that each cell expects at least five.
    cells = [(counts[each], value) for each, value in expected.items() if value >= 5]
    rest = (draws - sum(c for c, _ in cells), draws - sum(e for _, e in cells))
    if rest[1] >= 5:
        cells.append(rest)
    statistic = sum((c - e) ** 2 / e for c, e in cells)
    freedom = len(cells) - 1
    # Wilson-Hilferty: about normal; 4.5 deviations is one in 300,000.
    deviation = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(
        2 / (9 * freedom)
    )
    assert deviation < 4.5


def _paths(
    decoder: ToyDecoder, params: SamplingParams, prompt: list[int], length: int
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every continuation of a length and its probability, computed without the loop."""
    if length == 0:
        yield (), 1.0
        return
    probs = softmax(filter_logits(decoder.logits(prompt), params)).tolist()
    for token, probability in enumerate(probs):
        if probability > 0:
            for rest, more in _paths(decoder, params, [*prompt, token], length - 1):
                yield (token, *rest), probability * more


def _propose(draft: Draft, context: list[int], count: int) -> list[int]:
    return draft.propose(context, count, params=SamplingParams(), numbers=lambda position: 0.5)


def test_ngram_looks_up_the_latest_longest_match() -> None:
    draft = NgramDraft()
    assert _propose(draft, [1, 2, 3, 4], 3) == []
    assert _propose(draft, [1, 2, 3, 4, 1, 2], 3) == [3, 4, 1]
    assert _propose(draft, [1, 2, 3, 4, 1, 2, 9, 1, 2], 2) == [9, 1]
    # "3 1 2" was followed by 7, the later "1 2" by 8.
    assert _propose(NgramDraft(), [3, 1, 2, 7, 5, 1, 2, 8, 3, 1, 2], 1) == [7]


def test_ngram_starts_anew_with_another_text() -> None:
    draft = NgramDraft()
    _propose(draft, [1, 2, 3, 4, 1, 2], 1)
    assert _propose(draft, [5, 6, 1, 2], 1) == []
    assert _propose(draft, [5, 6, 1, 2, 5, 6], 2) == [1, 2]


def test_a_model_draft_with_a_full_context_is_silent() -> None:
    draft = ModelDraft(_model(5))
    assert len(_propose(draft, [1] * 95, 4)) == 1
    assert _propose(draft, [1] * 96, 4) == []
    assert _propose(draft, [1] * 500, 4) == []


class _TimedDecoder(ToyDecoder):
    """A decoder in which a step takes one second, reading several tokens ``slow``."""

    def __init__(self, slow: float) -> None:
        super().__init__(VOCAB, 10**6)
        self.now, self._slow = 0.0, slow

    def append(
        self,
        texts: Sequence[tuple[int, Sequence[int]]],
        *,
        prompt: bool = False,
        every: bool = False,
    ) -> Floats:
        ((_, ids),) = texts
        self.now += self._slow if every else 1.0
        return np.zeros((len(ids), VOCAB), np.float32)

    def truncate(self, slot: int, length: int) -> None:
        pass


@pytest.mark.parametrize("slow", [1.5, 2.0, 4.0])
@pytest.mark.parametrize("hits", [0.0, 0.2, 1.0])
def test_the_loss_is_bounded(slow: float, hits: float) -> None:
    decoder = _TimedDecoder(slow)
    draft = Scripted(1)
    stats = DraftStats()
    speculation = Speculation(
        decoder,
        decoder.open(),
        draft,
        SamplingParams(),
        lambda position: 0.5,
        stats,
        clock=lambda: decoder.now,
    )
    lucky = np.random.default_rng(1).random(1000) < hits
    context = [0]
    for hit in lucky.tolist():
        context.append((context[-1] + (1 if hit else 7)) % VOCAB)
        speculation.advance(context, 1000)
    assert decoder.now <= 1000 * 1.05 + 4 * slow
    if hits == 1.0:
        assert decoder.now < 1000 * slow / 3
    assert stats.proposed > 0

"""The token history against what one would count by hand."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from llmcli.engine.history import History

TOKENS = st.lists(st.integers(0, 5), max_size=120)


@given(prompt=TOKENS, generated=TOKENS, ngram=st.integers(0, 4))
def test_history_counts(prompt: list[int], generated: list[int], ngram: int) -> None:
    history = History(prompt, ngram_size=ngram)
    for token in generated:
        history.append(token)
    text = prompt + generated
    assert history.ids == text
    assert history.generated_count == len(generated)
    assert set(history.seen.tolist()) == set(text)
    counts = dict(zip(history.generated.tolist(), history.generated_counts.tolist(), strict=True))
    assert counts == Counter(generated)
    end = tuple(text[len(text) - ngram + 1 :]) if ngram > 1 else ()
    expected = {
        text[i + ngram - 1]
        for i in range(len(text) - ngram + 1)
        if ngram and tuple(text[i : i + ngram - 1]) == end
    }
    assert set(history.repeating()) == (expected if len(text) >= ngram - 1 else set())


def test_more_distinct_tokens_than_the_first_allocation() -> None:
    history = History([])
    for token in range(300):
        history.append(token)
        history.append(token)
    assert history.generated.tolist() == list(range(300))
    assert history.generated_counts.tolist() == [2.0] * 300

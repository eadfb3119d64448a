"""Windows of every convention, against the recipes they are named after, written out on lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.errors import InvalidInput
from llmcli.scoring.windows import Convention, ConventionName, Window, make_convention

BOS = 999


def cut(tokens: Sequence[int], sizes: Sequence[int]) -> Iterator[Sequence[int]]:
    """The tokens in pieces of the sizes given, over and over."""
    begin, turn = 0, 0
    while begin < len(tokens):
        size = sizes[turn % len(sizes)]
        yield tokens[begin : begin + size]
        begin, turn = begin + size, turn + 1


def convention(
    name: ConventionName, context: int, stride: int | None = None, *, bos: bool | None = None
) -> Convention:
    return make_convention(
        name, n_positions=context, bos_id=BOS, context=context, stride=stride, bos=bos
    )


def spelt(windows: Iterator[Window]) -> list[str]:
    """``context|scored`` with letters for tokens 0, 1, ... and ``^`` for BOS."""

    def letters(ids: Sequence[int]) -> str:
        return "".join("^" if i == BOS else chr(97 + i) for i in ids)

    return [f"{letters(w.tokens[: w.first])}|{letters(w.tokens[w.first :])}" for w in windows]


SEVEN = list(range(7))


@pytest.mark.parametrize(
    ("name", "stride", "bos", "expected"),
    [
        ("default", 2, None, ["^|abcd", "bcd|ef", "def|g"]),
        ("default", 2, False, ["a|bcde", "cde|fg"]),
        ("default", 3, None, ["^|abcd", "cd|efg"]),
        ("hf", 2, None, ["a|bcd", "cd|ef", "ef|g"]),
        ("lm-eval", None, None, ["^|abcd", "cd|efg"]),
    ],
)
def test_worked_examples(
    name: ConventionName, stride: int | None, bos: bool | None, expected: list[str]
) -> None:
    rule = convention(name, 4, stride, bos=bos)
    assert spelt(rule.windows([SEVEN])) == expected


def test_llama_cpp_scores_the_second_half_of_whole_windows() -> None:
    rule = convention("llama.cpp", 4)
    assert spelt(rule.windows([list(range(9))])) == ["abc|d", "efg|h"]
    with_bos = convention("llama.cpp", 4, bos=True)
    assert spelt(with_bos.windows([list(range(9))])) == ["^ab|c", "^ef|g"]


def test_llama_cpp_needs_two_windows() -> None:
    with pytest.raises(InvalidInput, match=r"7 tokens.*two whole windows, 8"):
        list(convention("llama.cpp", 4).windows([SEVEN]))


@given(
    length=st.integers(0, 60),
    context=st.integers(2, 12),
    stride=st.integers(1, 11),
    bos=st.booleans(),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_default_scores_each_token_once_with_enough_on_its_left(
    length: int, context: int, stride: int, bos: bool, sizes: list[int]
) -> None:
    stride = min(stride, context - 1)
    tokens = list(range(length))
    rule = convention("default", context, stride, bos=bos)
    windows = list(rule.windows(cut(tokens, sizes)))
    assert windows == list(rule.windows([tokens])), "the pieces must not matter"

    scored = [token for window in windows for token in window.tokens[window.first :]]
    assert scored == tokens[0 if bos else 1 :]
    for window in windows:
        assert 1 <= window.first < len(window.tokens) <= context + 1
        assert window.tokens[window.first] == window.position
        assert window.weight == 1
        assert window is windows[0] or window.first >= context - stride + 1
    assert rule.scores_every_token is bos


@given(
    length=st.integers(2, 60),
    context=st.integers(2, 12),
    stride=st.integers(1, 11),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_hf_is_the_guides_loop(length: int, context: int, stride: int, sizes: list[int]) -> None:
    stride = min(stride, context - 1)
    tokens = list(range(length))
    expected = []
    previous_end = 0
    for begin in range(0, length, stride):
        end = min(begin + context, length)
        target = end - previous_end
        labels = [None] * (end - begin - target) + tokens[end - target : end]
        shifted = [label for label in labels[1:] if label is not None]
        counted = len([label for label in labels if label is not None]) - 1
        expected.append((tokens[begin:end], shifted, counted / len(shifted)))
        previous_end = end
        if end == length:
            break
    windows = list(convention("hf", context, stride).windows(cut(tokens, sizes)))
    found = [(list(w.tokens), list(w.tokens[w.first :]), w.weight) for w in windows]
    assert found == expected


@given(
    length=st.integers(0, 60),
    context=st.integers(2, 12),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_lm_eval_windows(length: int, context: int, sizes: list[int]) -> None:
    tokens = list(range(length))
    expected = []
    if tokens:
        count = min(context, length)
        expected.append(([BOS, *tokens[: count - 1]], tokens[:count]))
        while count < length:
            ahead = min(length - count, context)
            end = count + ahead
            expected.append((tokens[end - context - 1 : end - 1], tokens[end - ahead : end]))
            count = end
    windows = list(convention("lm-eval", context).windows(cut(tokens, sizes)))
    found = [(list(w.tokens[:-1]), list(w.tokens[w.first :])) for w in windows]
    assert found == expected


@given(
    length=st.integers(24, 60),
    context=st.integers(4, 12),
    bos=st.booleans(),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_llama_cpp_windows(length: int, context: int, bos: bool, sizes: list[int]) -> None:
    text = list(range(length))
    tokens = [BOS, *text] if bos else text
    expected = []
    for chunk in range(len(tokens) // context):
        read = tokens[chunk * context : (chunk + 1) * context]
        if bos:
            read[0] = BOS
        first = context // 2
        targets = [tokens[chunk * context + i + 1] for i in range(first, context - 1)]
        expected.append((read, targets))
    rule = convention("llama.cpp", context, bos=bos)
    windows = list(rule.windows(cut(text, sizes)))
    assert [(list(w.tokens), list(w.tokens[w.first :])) for w in windows] == expected
    assert all(w.tokens[w.first] == w.position for w in windows)


@given(length=st.integers(1, 40), skip=st.integers(0, 40))
def test_a_prompt_is_read_but_not_scored(length: int, skip: int) -> None:
    tokens = list(range(length))
    windows = list(convention("default", 6, 3).windows([tokens], skip=skip))
    assert [t for w in windows for t in w.tokens[w.first :]] == tokens[skip:]
    assert all(w.tokens[w.first] == w.position for w in windows)


def test_the_stream_is_read_no_further_than_needed() -> None:
    read = 0

    def endless() -> Iterator[list[int]]:
        nonlocal read
        while True:
            yield [read]
            read += 1

    windows = convention("default", 8, 4).windows(endless())
    for _ in range(1000):
        window = next(windows)
    assert read < window.position + 8 + 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stride": 0}, "--stride is 0"),
        ({"stride": -3}, "--stride is -3"),
        ({"stride": 8}, "less than the context"),
        ({"stride": 9}, "less than the context"),
        ({"context": 9}, "at most 8 tokens"),
        ({"context": 1}, "needs at least 2"),
        ({"name": "llama.cpp", "context": 3}, "needs at least 4"),
        ({"name": "lm-eval", "stride": 4}, "has no stride"),
        ({"name": "llama.cpp", "stride": 4}, "has no stride"),
        ({"name": "lm-eval", "bos": False}, "always begins with BOS"),
        ({"bos_id": None}, "neither a BOS.*--no-bos"),
        ({"name": "gpt"}, "Use one of default"),
    ],
)
def test_bad_settings(arguments: dict[str, object], message: str) -> None:
    settings = {"name": "default", "n_positions": 8, "bos_id": BOS, **arguments}
    with pytest.raises(InvalidInput, match=message):
        make_convention(**settings)  # type: ignore[arg-type]


def test_own_defaults() -> None:
    def made(name: ConventionName, n_positions: int = 1024) -> Convention:
        return make_convention(name, n_positions=n_positions, bos_id=BOS)

    assert made("default") == Convention(name="default", context=1024, stride=512, bos=BOS)
    assert made("hf") == Convention(name="hf", context=1024, stride=512, bos=None)
    assert made("hf", 256).stride == 128
    assert made("lm-eval") == Convention(name="lm-eval", context=1024, stride=1024, bos=BOS)
    assert made("llama.cpp") == Convention(name="llama.cpp", context=512, stride=512, bos=None)
    assert made("default", 2).stride == 1

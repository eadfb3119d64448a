"""Truncation and chunks: sizes hold, nothing is lost, no character is cut."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.errors import InvalidInput
from llmcli.tokenization.chunks import Boundary, Side, beginning, split, token_edges, truncate
from llmcli.tokenization.large_text import PIECE_CHARS
from llmcli.tokenization.tokenizer import Tokenizer

TEXTS = st.text(max_size=80) | st.lists(
    st.sampled_from(
        [" ", "\n\n", "the fox", "Once. ", "Why? ", "é", "東京。", "🦊", "👩\u200d👧", "'s", "  "]
    ),
    max_size=40,
).map("".join)
SIDES = st.sampled_from(["head", "tail", "middle"])
BOUNDARIES = st.sampled_from(["paragraph", "sentence", "word", "token"])


@pytest.fixture(scope="module")
def tokenizer(small_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(small_folder)


@given(text=TEXTS, max_tokens=st.integers(0, 40), drop=SIDES)
@settings(max_examples=80)
def test_a_truncated_text_fits_and_is_a_part(
    tokenizer: Tokenizer, text: str, max_tokens: int, drop: Side
) -> None:
    short = truncate(tokenizer, text, max_tokens, drop=drop)
    assert len(tokenizer.ids(short)) <= max_tokens
    if len(tokenizer.ids(text)) <= max_tokens:
        assert short == text
    elif drop == "tail":
        assert text.startswith(short)
    elif drop == "head":
        assert text.endswith(short)
    else:
        assert any(
            short == text[:at] + text[len(text) - (len(short) - at) :]
            for at in range(len(short) + 1)
        )


@pytest.mark.parametrize(
    ("drop", "expected"),
    [("tail", "Once the"), ("head", " the wood"), ("middle", "Once wood")],
)
def test_what_each_side_keeps(tokenizer: Tokenizer, drop: Side, expected: str) -> None:
    words = "Once the the the wood"
    assert len(tokenizer.ids(words)) == 5
    assert truncate(tokenizer, words, 2, drop=drop) == expected


@given(
    text=TEXTS,
    size=st.integers(9, 40),
    overlap=st.integers(0, 8),
    boundary=BOUNDARIES,
)
@settings(max_examples=80)
def test_chunks_fit_and_cover_the_text(
    tokenizer: Tokenizer, text: str, size: int, overlap: int, boundary: Boundary
) -> None:
    chunks = list(split(tokenizer, text, size, overlap=overlap, boundary=boundary))
    data = text.encode("utf-8")
    end = 0
    for number, chunk in enumerate(chunks):
        assert chunk.index == number
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text.encode("utf-8") == data[chunk.byte_start : chunk.byte_end]
        assert chunk.count == len(tokenizer.ids(chunk.text)) <= size
        assert chunk.start <= end < chunk.end
        end = chunk.end
    assert end == len(text)
    if overlap == 0:
        assert "".join(chunk.text for chunk in chunks) == text


def test_an_overlap_repeats_about_so_many_tokens(tokenizer: Tokenizer) -> None:
    text = "Once upon a time there was a little fox. " * 20
    chunks = list(split(tokenizer, text, 30, overlap=10, boundary="token"))
    for left, right in pairwise(chunks):
        repeated = text[right.start : left.end]
        assert len(tokenizer.ids(repeated)) == 10


def test_the_coarsest_end_in_the_second_half_is_taken(tokenizer: Tokenizer) -> None:
    text = "the fox. the fox the old\n\nthe river by the old wood"
    size = len(tokenizer.ids("the fox. the fox the old\n\nthe river by"))
    firsts = {
        boundary: next(split(tokenizer, text, size, boundary=boundary)).text
        for boundary in ("paragraph", "word", "token")
    }
    assert firsts["paragraph"] == "the fox. the fox the old\n\n"
    assert firsts["word"] == "the fox. the fox the old\n\nthe river by"
    assert text.startswith(firsts["token"])
    sentences = "the fox the old wood. the river by the old wood"
    size = len(tokenizer.ids("the fox the old wood. the river by"))
    assert next(split(tokenizer, sentences, size)).text == "the fox the old wood. "


def test_a_character_larger_than_a_chunk_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidInput, match="offset 1"):
        list(split(tokenizer, "a🜁", 1))
    with pytest.raises(InvalidInput, match="overlap"):
        list(split(tokenizer, "a", 4, overlap=4))


@given(text=TEXTS)
@settings(max_examples=60)
def test_edges_are_the_characters_whole_after_each_token(tokenizer: Tokenizer, text: str) -> None:
    edges = token_edges(tokenizer, text)
    data = b""
    for token_id, edge in zip(tokenizer.ids(text), edges, strict=True):
        data += tokenizer.token_bytes(token_id)
        assert data.decode("utf-8", "ignore") == text[:edge]


@given(
    text=TEXTS.map(lambda text: text * 20), max_tokens=st.integers(0, 40), cut=st.integers(1, 50)
)
@settings(max_examples=60)
def test_a_beginning_is_cut_as_the_whole_text_is(
    tokenizer: Tokenizer, text: str, max_tokens: int, cut: int
) -> None:
    text *= 20
    parts = [text[at : at + cut] for at in range(0, len(text), cut)]
    begun = beginning(tokenizer, parts, max_tokens)
    assert text.startswith(begun)
    assert truncate(tokenizer, begun, max_tokens) == truncate(tokenizer, text, max_tokens)


def test_no_more_is_read_than_the_beginning(tokenizer: Tokenizer) -> None:
    read = 0

    def without_end() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "Once there was a fox. " * 100

    begun = beginning(tokenizer, without_end(), 5)
    assert begun == "Once there was a fox. " * 100 * read
    assert len(begun) < 40 * PIECE_CHARS

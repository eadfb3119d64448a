"""The incremental decoder: joined pieces are the text, however the bytes were cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.tokenization.stream import StreamDecoder


def _cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(edges)]


@given(data=st.binary(max_size=80) | st.text().map(str.encode), places=st.lists(st.integers(0)))
def test_joined_pieces_are_the_whole_decoded(data: bytes, places: list[int]) -> None:
    decoder = StreamDecoder()
    pieces = [decoder.push(part) for part in _cut(data, places)] + [decoder.flush()]
    assert "".join(pieces) == data.decode("utf-8", "replace")


@given(text=st.text(min_size=1))
def test_nothing_complete_is_held_back(text: str) -> None:
    decoder = StreamDecoder()
    for char in text:
        data = char.encode("utf-8")
        for byte in data[:-1]:
            assert decoder.push(bytes([byte])) == ""
        assert len(decoder.pending) == len(data) - 1
        assert decoder.push(data[-1:]) == char
    assert decoder.flush() == ""


def test_strict_raises_and_flush_makes_ready_again() -> None:
    with pytest.raises(UnicodeDecodeError):
        StreamDecoder(errors="strict").push(b"a\xff")
    decoder = StreamDecoder()
    assert decoder.push("é".encode()[:1]) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.push(b"a") == "a"

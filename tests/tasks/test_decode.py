"""Decoding as a task."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmcli.errors import InvalidInput, InvalidText
from llmcli.io.id_records import IdRecord
from llmcli.tasks.decode import Decoder
from llmcli.tokenization.tokenizer import Tokenizer

TEXT = "The fox said: 東京!"


@pytest.fixture(scope="module")
def tokenizer(tiny_gpt2: Path) -> Tokenizer:
    return Tokenizer.from_folder(tiny_gpt2)


def record(*parts: list[int]) -> IdRecord:
    return IdRecord(parts=parts, place="The ids")


def test_bytes_come_back_however_ids_arrive(tokenizer: Tokenizer) -> None:
    ids = tokenizer.ids(TEXT)
    for cut in range(len(ids) + 1):
        decoder = Decoder(tokenizer=tokenizer)
        assert decoder.text(record(ids[:cut], ids[cut:])).text == TEXT
        assert "".join(decoder.texts(record(ids[:cut], ids[cut:]))) == TEXT


def test_a_character_that_is_cut_off(tokenizer: Tokenizer) -> None:
    half = tokenizer.ids("東")[:1]
    data = tokenizer.decode_bytes(half)
    assert "東".encode().startswith(data)
    assert Decoder(tokenizer=tokenizer).text(record(half)).data == data
    assert Decoder(tokenizer=tokenizer, errors="replace").text(record(half)).text == "\ufffd"
    with pytest.raises(InvalidText, match="The ids"):
        Decoder(tokenizer=tokenizer, errors="strict").text(record(half))


def test_control_tokens_can_be_left_out(tokenizer: Tokenizer) -> None:
    start = tokenizer.start_id
    assert start is not None
    ids = [start, *tokenizer.ids(TEXT)]
    assert Decoder(tokenizer=tokenizer, skip_special=True).text(record(ids)).text == TEXT
    assert Decoder(tokenizer=tokenizer).text(record(ids)).text != TEXT


def test_an_id_outside_the_vocabulary(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidInput, match="10000000"):
        Decoder(tokenizer=tokenizer).text(record([10_000_000]))

"""Encoding as a task: counts, fits, cuts and comparisons, without a command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from llmcli.api import load
from llmcli.errors import InvalidInput
from llmcli.hub.resolve import find_local
from llmcli.io.records import Record
from llmcli.reporting import silent
from llmcli.tasks.encode import Encoder, chunk_name
from llmcli.tokenization.tokenizer import Tokenizer

TEXT = "The fox said to the crow: 東京 is far."


@pytest.fixture
def encoder(tiny_gpt2: Path) -> Encoder:
    model = find_local(str(tiny_gpt2), revision=None, notify=silent)
    return Encoder(tokenizer=Tokenizer.from_folder(tiny_gpt2), model=model)


def test_ids_are_transformers(encoder: Encoder, tiny_gpt2: Path) -> None:
    expected = AutoTokenizer.from_pretrained(tiny_gpt2)(TEXT)["input_ids"]
    assert encoder.tokens(TEXT).ids == expected
    assert [each for ids in encoder.id_lists([TEXT]) for each in ids] == expected
    assert encoder.count(iter([TEXT[:9], TEXT[9:]])) == len(expected)


def test_what_is_added_counts(encoder: Encoder, tiny_gpt2: Path) -> None:
    plain = encoder.count([TEXT])
    encoder.surround(bos=True, eos=True)
    assert encoder.count([TEXT]) == plain + 2
    tokens = encoder.tokens(TEXT)
    start = load(str(tiny_gpt2)).tokenizer.start_id
    assert (tokens.ids[0], tokens.ids[-1]) == (start, start)
    assert tokens.byte_offsets[-1] == (len(TEXT.encode()),) * 2


def test_a_fit_reads_no_more_than_it_needs(encoder: Encoder) -> None:
    read = []

    def parts() -> object:
        for number in range(1_000):
            read.append(number)
            yield "The fox said nothing. " * 5_000

    fit = encoder.fit(parts(), 10, whole=False)  # type: ignore[arg-type]
    assert not fit.fits
    assert len(read) < 10


def test_a_cut_is_inside_no_character(encoder: Encoder) -> None:
    whole = encoder.count([TEXT])
    for most in range(1, whole + 2):
        text, cut = encoder.truncate(Record(parts=(TEXT,)), most, drop="tail")
        assert TEXT.startswith(text)
        assert cut == (text != TEXT)
        assert encoder.count([text]) <= most


def test_the_name_of_a_chunk() -> None:
    assert chunk_name("part-{index:03}.txt", 7) == "part-007.txt"
    with pytest.raises(InvalidInput):
        chunk_name("part.txt", 7)

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.errors import InvalidInput
from llmcli.tokenization.tokenizer import Tokenizer
from llmcli.training.corpus import Document
from llmcli.training.tokens import Blocks, write_tokens


def test_the_file_holds_every_document_and_the_token_that_ends_it(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.from_folder(tiny_gpt2)
    documents = [Document("a", "Once upon a time"), Document("b", "naïve 🦊 <|endoftext|>")]
    file = write_tokens(documents, tmp_path / "t.bin", tokenizer=tokenizer, end_of_text=0)
    expected = [[*tokenizer.ids(document.text), 0] for document in documents]
    assert file.open(tmp_path).tolist() == [token for ids in expected for token in ids]
    assert file.lengths == [len(ids) for ids in expected]
    assert file.sizes == [len(document.text.encode()) for document in documents]
    # The end-of-text token spelt out in a text is text.
    assert file.open(tmp_path).tolist().count(0) == len(documents)


def test_a_corpus_is_mapped_not_read(tiny_gpt2: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(tiny_gpt2)
    file = write_tokens(
        [Document("a", "the sun")], tmp_path / "t.bin", tokenizer=tokenizer, end_of_text=0
    )
    assert isinstance(file.open(tmp_path), np.memmap)
    assert file.dtype == "uint16"
    empty = write_tokens([], tmp_path / "e.bin", tokenizer=tokenizer, end_of_text=0)
    assert empty.tokens == 0
    assert len(empty.open(tmp_path)) == 0


@given(
    length=st.integers(20, 400),
    context=st.sampled_from([4, 8, 16]),
    seed=st.integers(0, 3),
)
def test_a_pass_takes_every_block_once(length: int, context: int, seed: int) -> None:
    blocks = Blocks(np.arange(length), context=context, blocks_per_step=2, seed=seed)
    for this_pass in range(2):
        first = this_pass * blocks.blocks_per_pass
        seen = [blocks.block(first + n) for n in range(blocks.blocks_per_pass)]
        assert all((np.diff(block) == 1).all() and len(block) == context + 1 for block in seen)
        inputs = np.concatenate([block[:-1] for block in seen])
        assert len(set(inputs.tolist())) == len(inputs)
        # What a pass leaves out is less than two blocks.
        assert length - len(inputs) <= 2 * context


def test_blocks_follow_from_seed_and_number_alone() -> None:
    def make(seed: int) -> Blocks:
        return Blocks(np.arange(1000), context=16, blocks_per_step=4, seed=seed)

    one, other = make(1), make(1)
    numbers = [70, 3, 200, 3, 0]
    assert [one.block(n).tolist() for n in numbers] == [
        other.block(n).tolist() for n in reversed(numbers)
    ][::-1]
    assert [make(2).block(n)[0] for n in range(9)] != [one.block(n)[0] for n in range(9)]


def test_a_shorter_length_cuts_the_same_blocks() -> None:
    blocks = Blocks(np.arange(1000), context=16, blocks_per_step=4, seed=0)
    whole, short = blocks.batch([5, 6], length=16), blocks.batch([5, 6], length=4)
    assert whole.shape == (2, 17)
    assert short.shape == (8, 5)
    assert short[:, :-1].ravel().tolist() == whole[:, :-1].ravel().tolist()
    assert short[:, 1:].ravel().tolist() == whole[:, 1:].ravel().tolist()


def test_text_shorter_than_a_context() -> None:
    with pytest.raises(InvalidInput, match="has 16 tokens to train on, less than one context"):
        Blocks(np.arange(16), context=16, blocks_per_step=1, seed=0)
    assert Blocks(np.arange(17), context=16, blocks_per_step=1, seed=0).block(0).tolist() == list(
        range(17)
    )

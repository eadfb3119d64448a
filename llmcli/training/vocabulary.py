"""Train a byte-level BPE tokenizer as GPT-2's is: every text has tokens, no token is unknown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from llmcli.errors import InvalidInput
from llmcli.training.settings import END_OF_TEXT


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Learn ``vocab_size`` entries: the end-of-text token (id 0), the 256 bytes, merges.

    Raises:
        InvalidInput: the texts do not hold so many different pieces.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    have = tokenizer.get_vocab_size()
    if have < vocab_size:
        raise InvalidInput(
            f"The text supports a vocabulary of {have} entries, not {vocab_size}.",
            f"Use --vocab-size {have} or less, or more text.",
        )
    return tokenizer


def for_transformers(tokenizer: Tokenizer, *, n_positions: int) -> PreTrainedTokenizerFast:
    """Return the tokenizer as transformers saves and loads it."""
    make: Any = PreTrainedTokenizerFast
    wrapped: PreTrainedTokenizerFast = make(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=n_positions,
        clean_up_tokenization_spaces=False,
    )
    return wrapped

"""Tokenizers for tests: tiny ones of every kind that is cut, and GPT-2's where it is at hand."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

# Read before the fixture that cleans the environment takes it away.
_GPT2 = Path(
    os.environ.get("LLMCLI_GPT2_TOKENIZER")
    or Path(__file__).parents[2] / "shared" / "gpt2-tokenizer"
)

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)

# Made so that every kind of tile has pieces of several lengths, runs of spaces among them.
_TEXTS = [
    "Once upon a time there was a little fox who lived in the old wood by the river.",
    "She didn't know, they'll say; we've 12 sheep, 345 hens and 6789 geese; it's I'm he'd.",
    "  two  spaces   three    four        eight\n\n\n\nnewlines\r\n\r\n\t\ttabs",
    "aaaaaaaa aaaa aa a !!!!!!!! !!!! !! ---- ---------------- ======== 1111111122222222",
    "Le café est très chaud; naïve façade, über, 東京京都東京, привет, 🦊🦊.",
]


def _byte_level(pre_tokenizer: pre_tokenizers.PreTokenizer) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        min_frequency=1,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXTS, trainer)
    return tokenizer


def gpt2_style() -> Tokenizer:
    """Byte-level BPE with GPT-2's expression."""
    return _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))


def split_style(expression: str) -> Tokenizer:
    """Byte-level BPE with another expression, as newer models have it."""
    steps: list[pre_tokenizers.PreTokenizer] = [
        pre_tokenizers.Split(Regex(expression), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    return _byte_level(pre_tokenizers.Sequence(steps))


def nfc_style() -> Tokenizer:
    """As GPT-2's, over text in composed form (Qwen's)."""
    tokenizer = gpt2_style()
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def prefix_space_style() -> Tokenizer:
    """As GPT-2's, with a space put in front of every text (RoBERTa's)."""
    return _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True))


def added_style() -> Tokenizer:
    """As GPT-2's, with added tokens that are not control tokens (Phi's runs of spaces)."""
    tokenizer = gpt2_style()
    tokenizer.add_tokens(["    ", "  ", "wood"])
    return tokenizer


def metaspace_style() -> Tokenizer:
    """SentencePiece-like Unigram."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300,
        special_tokens=["<unk>", "<s>", "</s>"],
        unk_token="<unk>",
        initial_alphabet=["<", ">", "/"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXTS, trainer)
    return tokenizer


def llama2_style() -> Tokenizer:
    """BPE over the whole text with a space put in front, unknown characters as bytes."""
    words = sorted({char for text in _TEXTS for char in text if char not in " 🦊東"} | {"▁"})
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "▁"), ("▁▁", "▁▁"), ("o", "n")]
    pieces = ["<unk>", "<s>", "</s>", *byte_pieces, *words, *(a + b for a, b in merges)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


STYLES: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": gpt2_style,
    "llama3": lambda: split_style(LLAMA3),
    "qwen2": lambda: split_style(LLAMA3.replace("{1,3}", "")),
    "gpt4o": lambda: split_style(GPT4O),
    "nfc": nfc_style,
    "prefix_space": prefix_space_style,
    "added": added_style,
    "metaspace": metaspace_style,
    "llama2": llama2_style,
}


@pytest.fixture(scope="session")
def tokenizer_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with the tiny tokenizer of a style; made once."""
    made: dict[str, Path] = {}

    def folder(style: str) -> Path:
        if style not in made:
            made[style] = tmp_path_factory.mktemp(style)
            STYLES[style]().save(str(made[style] / "tokenizer.json"))
        return made[style]

    return folder


@pytest.fixture(scope="session")
def small_folder(tokenizer_folders: Callable[[str], Path]) -> Path:
    """A folder with a tiny byte-level tokenizer that splits as GPT-2's does."""
    return tokenizer_folders("gpt2")


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of GPT-2's own vocab.json and merges.txt; skips where they are not at hand."""
    if not (_GPT2 / "merges.txt").is_file():
        pytest.skip("GPT-2's vocabulary is not at hand (LLMCLI_GPT2_TOKENIZER names its folder)")
    folder = tmp_path_factory.mktemp("gpt2")
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(_GPT2 / name, folder / name)
    return folder

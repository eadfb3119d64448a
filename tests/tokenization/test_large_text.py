"""Large input in parts: the ids are those of the whole text, on texts made to break it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_files import STYLES
from tokenizers import Tokenizer as Backend

from llmcli.errors import InvalidInput
from llmcli.tokenization import large_text as bulk
from llmcli.tokenization.cut_rules import cut_rule, last_cut
from llmcli.tokenization.large_text import encode_pieces, encode_texts
from llmcli.tokenization.tokenizer import SpecialTokens, Tokenizer

# What lies at the seams of the expressions: apostrophes, runs, spaces that only some call spaces,
# marks that combine, letters and digits beyond ASCII.
ATOMS = [
    *(" ", "  ", "\n", "\r\n", "\t", "'", "'s", "'re", "'ll", "'S", "\u00a0", "\u2028", "\x1c"),
    *("a", "B", "ab", "Hello", "the", "7", "123", "!", "--", "/", "\0", "é", "e\u0301", "\u0301"),
    *("東", "京都", "🦊", "\u200b", "\x85", "ß", "Ⅷ", "٣", "<|endoftext|>", "wood", "x"),
]


@st.composite
def _texts(draw: st.DrawFn) -> str:
    """Few kinds of atoms, many of each: long runs without a break, and their ends."""
    kinds = draw(st.lists(st.sampled_from(ATOMS), min_size=1, max_size=5))
    runs = st.tuples(st.sampled_from(kinds), st.sampled_from([1, 1, 2, 3, 9, 80, 300]))
    return "".join(atom * count for atom, count in draw(st.lists(runs, max_size=25)))


@pytest.fixture(scope="module")
def tokenizers(tokenizer_folders: Callable[[str], Path]) -> dict[str, Tokenizer]:
    return {style: Tokenizer.from_folder(tokenizer_folders(style)) for style in STYLES}


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is measured in thousands of characters, in hundreds."""
    monkeypatch.setattr(bulk, "_WINDOW", 100)
    monkeypatch.setattr(bulk, "_TILE_SLICE", 400)


def _whole(tokenizer: Tokenizer, text: str, special: SpecialTokens = "text") -> list[int]:
    """The reference: one call of the library over the whole text."""
    tokenizer.prepare(special)
    return tokenizer.backend.encode(text, add_special_tokens=False).ids


def _in_parts(
    tokenizer: Tokenizer, parts: list[str], special: SpecialTokens = "text", size: int = 200
) -> list[int]:
    pieces = encode_pieces(tokenizer, parts, special=special, threads=2, piece_chars=size)
    return [token_id for piece in pieces for token_id in piece.ids]


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("special", ["text", "allow"])
@pytest.mark.parametrize("style", STYLES)
@given(text=_texts(), at=st.integers(0))
@settings(max_examples=15)
def test_parts_give_the_ids_of_the_whole(
    tokenizers: dict[str, Tokenizer], style: str, special: SpecialTokens, text: str, at: int
) -> None:
    tokenizer = tokenizers[style]
    at %= len(text) + 1
    try:
        ids = _in_parts(tokenizer, [text[:at], text[at:]], special)
    except InvalidInput:
        # Inside a run of punctuation and then newlines, which these expressions cannot cut.
        assert style in ("llama3", "qwen2")
        assert re.search(r"[^\w\s]{80}\s{60}", text)
        return
    assert ids == _whole(tokenizer, text, special)


@given(text=_texts())
@settings(max_examples=25)
@pytest.mark.parametrize("style", STYLES)
def test_a_cut_is_exact_wherever_it_is_found(
    tokenizers: dict[str, Tokenizer], style: str, text: str
) -> None:
    """Every cut, not only the last: each prefix's last cut, both sides encoded alone."""
    tokenizer = tokenizers[style]
    rule = cut_rule(tokenizer.backend)
    assert rule is not None
    for end in range(0, len(text), 1 + len(text) // 20):
        if at := last_cut(text[:end], rule):
            rest = text[at + rule.drop_space :]
            both = _whole(tokenizer, text[:at]) + _whole(tokenizer, rest)
            assert both == _whole(tokenizer, text)


@pytest.mark.parametrize("seam", ["\n\t\t\u00a0\u00a0the", "  \n\nx", "'s'll'", "!\n/3", " 's"])
@pytest.mark.parametrize("run", [" ", "\n", "a", "7", "!", "\0", "東", "ab'", "\u00a0"])
@pytest.mark.parametrize("style", ["gpt2", "gpt4o", "nfc", "metaspace"])
def test_seams_between_long_runs(
    tokenizers: dict[str, Tokenizer], style: str, run: str, seam: str
) -> None:
    text = f"{run * 700}{seam}{run * 333}{seam}"
    tokenizer = tokenizers[style]
    assert _in_parts(tokenizer, [text]) == _whole(tokenizer, text)


@pytest.mark.parametrize("run", ["\0", "a", "7", " ", "\n", "ab", "'", "é", "東京", "-="])
def test_one_tile_longer_than_any_part_is_joined(gpt2_folder: Path, run: str) -> None:
    """The real windows: a run of a fifth of a million characters, and what follows it."""
    tokenizer = Tokenizer.from_folder(gpt2_folder)
    text = f"Look: {run * (200_000 // len(run))}'s end"
    pieces = list(encode_pieces(tokenizer, [text], threads=2, piece_chars=90_000))
    assert len(pieces) > 2
    ids = [token_id for piece in pieces for token_id in piece.ids]
    assert ids == _whole(tokenizer, text)


def test_ordinary_text_is_cut_into_parts_of_about_the_size(gpt2_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(gpt2_folder)
    text = "It's the fox's turn; they'll wait, won't they?\n\n" * 2000
    pieces = list(encode_pieces(tokenizer, [text], piece_chars=10_000))
    assert len(pieces) >= len(text) // 20_000
    assert [token_id for piece in pieces for token_id in piece.ids] == _whole(tokenizer, text)
    assert sum(piece.count for piece in pieces) == len(_whole(tokenizer, text))


def test_ids_of_a_long_text_take_the_same_way(tokenizers: dict[str, Tokenizer]) -> None:
    text = "the fox, they'll  say \n" * 30_000
    assert tokenizers["gpt2"].ids(text) == _whole(tokenizers["gpt2"], text)
    encoding = tokenizers["gpt2"].encode(text)
    whole = tokenizers["gpt2"].backend.encode(text, add_special_tokens=False)
    assert (encoding.ids, encoding.tokens) == (whole.ids, whole.tokens)
    assert encoding.char_offsets == encoding.byte_offsets == whole.offsets
    with pytest.raises(InvalidInput, match="too long"):
        tokenizers["nfc"].encode(text + "e\u0301")


@given(texts=st.lists(_texts() | st.text(), max_size=12))
@settings(max_examples=40)
@pytest.mark.usefixtures("small_windows")
def test_many_texts_each_on_its_own(tokenizers: dict[str, Tokenizer], texts: list[str]) -> None:
    tokenizer = tokenizers["gpt2"]
    pieces = encode_texts(tokenizer, texts, threads=2)
    assert [piece.ids for piece in pieces] == [_whole(tokenizer, text) for text in texts]


def test_a_long_text_among_short_ones(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["gpt2"]
    texts = ["a", "the fox " * 50_000, "", "b c"]
    pieces = encode_texts(tokenizer, texts, threads=2)
    assert [piece.ids for piece in pieces] == [_whole(tokenizer, text) for text in texts]


def test_forbidden_tokens_are_found_in_any_part(tokenizers: dict[str, Tokenizer]) -> None:
    text = "the fox " * 100 + "<|endoftext|>" + " the" * 100
    with pytest.raises(InvalidInput, match="at character 800"):
        _in_parts(tokenizers["gpt2"], [text], "forbid")


@pytest.mark.parametrize(
    "change",
    [
        lambda backend: backend.add_tokens(["fox den"]),
        lambda backend: setattr(backend.model, "dropout", 0.1),
    ],
)
def test_nothing_is_certain_where_a_token_holds_a_space_or_chance_rules(
    tokenizer_folders: Callable[[str], Path], change: Callable[[Backend], object]
) -> None:
    backend = Backend.from_file(str(tokenizer_folders("gpt2") / "tokenizer.json"))
    change(backend)
    assert cut_rule(backend) is None


def test_an_unknown_expression_is_not_cut_and_a_long_text_is_refused(
    tokenizer_folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tokenizer_folders("llama3") / "tokenizer.json"
    state = path.read_text("utf-8").replace(r"\\p{N}{1,3}", r"\\p{N}{1,3}(?= )")
    tokenizer = Tokenizer(Backend.from_str(state), path.parent)
    assert cut_rule(tokenizer.backend) is None
    text = "12 345 the " * 100
    assert _in_parts(tokenizer, [text]) == _whole(tokenizer, text)
    monkeypatch.setattr(bulk, "MAX_UNCUT", 500)
    with pytest.raises(InvalidInput, match="certainly splits"):
        _in_parts(tokenizer, [text])

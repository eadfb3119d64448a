"""Reading tokenizers, encoding with offsets, decoding to exact bytes."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_files import STYLES
from tokenizers import Tokenizer as Backend

from llmcli.errors import CorruptModel, InvalidInput, InvalidText, UnsupportedModel
from llmcli.tokenization.tokenizer import Tokenizer

EXACT = ["gpt2", "llama3", "qwen2", "gpt4o", "added", "llama2"]
PLAIN = (" ", "  ", "\n", "\r\n", "'s", "the", "Fox", "123", "!", "<|endoftext|>", "\0", "\x1b[31m")
WIDE = ("é", "e\u0301", "東京", "🦊", "👩\u200d👧", "\u202e", "▁", "<0x0A>", "Ġ", "\ufeff")
TEXTS = st.text(max_size=60) | st.lists(st.sampled_from(PLAIN + WIDE), max_size=30).map("".join)


@pytest.fixture(scope="module")
def tokenizers(tokenizer_folders: Callable[[str], Path]) -> dict[str, Tokenizer]:
    return {style: Tokenizer.from_folder(tokenizer_folders(style)) for style in STYLES}


@pytest.mark.parametrize("style", [s for s in EXACT if s != "llama2"])
@given(text=TEXTS)
@settings(max_examples=60)
def test_what_is_encoded_decodes_to_the_same_bytes(
    tokenizers: dict[str, Tokenizer], style: str, text: str
) -> None:
    tokenizer = tokenizers[style]
    ids = tokenizer.ids(text)
    assert tokenizer.decode_bytes(ids) == text.encode("utf-8")
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode("utf-8")


@given(text=TEXTS.filter(lambda text: "▁" not in text and "<0x" not in text))
@settings(max_examples=60)
def test_sentencepiece_with_bytes_is_exact_too(tokenizers: dict[str, Tokenizer], text: str) -> None:
    tokenizer = tokenizers["llama2"]
    assert tokenizer.decode_bytes(tokenizer.ids(text)) == text.encode("utf-8")


@pytest.mark.parametrize("style", EXACT)
@given(text=TEXTS.filter(lambda text: "▁" not in text and "<0x" not in text))
@settings(max_examples=40)
def test_offsets_are_where_the_tokens_lie(
    tokenizers: dict[str, Tokenizer], style: str, text: str
) -> None:
    tokenizer = tokenizers[style]
    encoding = tokenizer.encode(text)
    data = text.encode("utf-8")
    end = 0
    for index, token_id in enumerate(encoding.ids):
        start, end_here = encoding.byte_offsets[index]
        assert start == end
        end = end_here
        piece = tokenizer.token_bytes(token_id)
        assert data[start:end] in (piece, piece.removeprefix(b" "))
        first, past = encoding.char_offsets[index]
        around = text[first:past].encode("utf-8")
        assert data[start:end] in around
        assert encoding.tokens[index] == tokenizer.token_string(token_id)
        # No character could be left out at either side.
        assert start < len(text[: first + 1].encode("utf-8")) or start == end
        assert end > len(text[: past - 1].encode("utf-8")) or start == end
    assert end == len(data)


def test_offsets_where_a_normaliser_changed_the_text(tokenizers: dict[str, Tokenizer]) -> None:
    text = "cafe\u0301 noir"
    encoding = tokenizers["nfc"].encode(text)
    assert encoding.byte_offsets[-1][1] == len(text.encode("utf-8"))
    assert encoding.char_offsets[-1][1] == len(text)


def test_control_tokens_in_a_text(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["gpt2"]
    end = tokenizer.eos_id
    assert end is not None
    assert end not in tokenizer.ids("a<|endoftext|>b")
    assert end in tokenizer.ids("a<|endoftext|>b", special="allow")
    assert end not in tokenizer.ids("a<|endoftext|>b")
    with pytest.raises(InvalidInput, match="at character 1"):
        tokenizer.ids("a<|endoftext|>b", special="forbid")
    assert tokenizer.decode_bytes([end]) == b"<|endoftext|>"
    assert tokenizer.decode_bytes([end], skip_special=True) == b""
    assert tokenizer.special_ids == {end}


def _merging(tokenizer: Backend) -> Backend:
    """With a merge that spells <s>, as a vocabulary made from SentencePiece may have it."""
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    for piece in ("<", ">", "<s"):
        vocabulary.setdefault(piece, len(vocabulary))
    state["model"]["merges"] += [["<", "s"], ["<s", ">"]]
    return Backend.from_str(json.dumps(state))


@pytest.mark.parametrize("style", ["metaspace", "llama2"])
@given(text=st.lists(st.sampled_from(["<s>", "</s>", " ", "the", "s", "<", "1"])).map("".join))
@settings(max_examples=40)
def test_a_vocabulary_that_spells_control_tokens_does_not(style: str, text: str) -> None:
    backend = STYLES[style]() if style == "metaspace" else _merging(STYLES[style]())
    tokenizer = Tokenizer(backend, Path())
    begin, end = backend.token_to_id("<s>"), backend.token_to_id("</s>")
    ids = tokenizer.ids(text)
    assert begin not in ids
    assert end not in ids
    assert tokenizer.encode(text).ids == ids
    if "<" not in text:
        assert ids == backend.encode(text, add_special_tokens=False).ids
    assert (begin in tokenizer.ids(text, special="allow")) == ("<s>" in text)


def test_the_library_alone_would_find_them() -> None:
    """Why the above is needed: told to take them for text, the model spells them itself."""
    backend = STYLES["metaspace"]()
    backend.encode_special_tokens = True
    assert backend.token_to_id("<s>") in backend.encode("the <s>").ids


def test_a_lone_surrogate_is_named(tokenizers: dict[str, Tokenizer]) -> None:
    with pytest.raises(InvalidText, match=r"U\+D800\) at character 2"):
        tokenizers["gpt2"].ids("ab\ud800")


@pytest.mark.parametrize("token_id", [-1, 10**6, 2**40])
def test_an_id_outside_the_vocabulary(tokenizers: dict[str, Tokenizer], token_id: int) -> None:
    tokenizer = tokenizers["gpt2"]
    assert token_id not in tokenizer
    with pytest.raises(InvalidInput, match="outside the vocabulary"):
        tokenizer.decode_bytes([0, token_id])


def test_gpt2_ids_are_the_published_ones(gpt2_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(gpt2_folder)
    # As in the examples of GPT-2's own documentation.
    assert tokenizer.ids("Hello world") == [15496, 995]
    assert tokenizer.ids(" Hello world") == [18435, 995]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (50256, 50256, 50257)
    assert not tokenizer.adds_bos


@given(text=TEXTS)
@settings(max_examples=60)
def test_gpt2_matches_transformers(reference: tuple[Tokenizer, object], text: str) -> None:
    ours, theirs = reference
    special = "allow" if "<|endoftext|>" in text else "text"
    expected = theirs(text, add_special_tokens=False)["input_ids"]  # type: ignore[operator]
    assert ours.ids(text, special=special) == expected  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def reference(gpt2_folder: Path) -> tuple[Tokenizer, object]:
    from transformers import GPT2Tokenizer

    theirs = GPT2Tokenizer.from_pretrained(str(gpt2_folder))
    return Tokenizer.from_folder(gpt2_folder), theirs


def test_a_folder_of_vocab_and_merges_equals_its_tokenizer_json(
    small_folder: Path, tmp_path: Path
) -> None:
    state = json.loads((small_folder / "tokenizer.json").read_text("utf-8"))
    (tmp_path / "vocab.json").write_text(json.dumps(state["model"]["vocab"]), "utf-8")
    merges = "\n".join(" ".join(pair) for pair in state["model"]["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", "utf-8")
    whole, parts = Tokenizer.from_folder(small_folder), Tokenizer.from_folder(tmp_path)
    text = "Once upon a time  didn't 🦊 <|endoftext|>\n\n"
    assert whole.ids(text) == parts.ids(text)
    assert whole.ids(text, special="allow") == parts.ids(text, special="allow")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("tokenizer_config.json", {"bos_token": "Once", "eos_token": {"content": "a"}}, "named"),
        ("special_tokens_map.json", {"bos_token": "Once", "eos_token": "a"}, "named"),
        ("generation_config.json", {"bos_token_id": 5, "eos_token_id": [7, 8]}, (5, 7)),
        ("config.json", {"bos_token_id": 5, "eos_token_id": 7}, (5, 7)),
        ("config.json", {"bos_token_id": None}, (0, 0)),
    ],
)
def test_where_begin_and_end_are_named(
    small_folder: Path,
    tmp_path: Path,
    name: str,
    content: dict[str, object],
    expected: tuple[int, int] | str,
) -> None:
    shutil.copy(small_folder / "tokenizer.json", tmp_path)
    (tmp_path / name).write_text(json.dumps(content), "utf-8")
    tokenizer = Tokenizer.from_folder(tmp_path)
    if expected == "named":
        (once,), (a,) = tokenizer.ids("Once"), tokenizer.ids("a")
        expected = (once, a)
    assert (tokenizer.bos_id, tokenizer.eos_id) == expected


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" \n",
        b"<html>not found</html>",
        b"[]",
        b"{}",
        b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}',
        b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["b c"]}}',
        b'{"model": {"type": "Unigram", "unk_id": 9, "vocab": [["a", 0.1]]}}',
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    ],
)
def test_a_broken_file_is_named_with_the_cure(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CorruptModel) as caught:
        Tokenizer.from_folder(tmp_path)
    assert str(tmp_path) in caught.value.message
    assert caught.value.cure


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
@settings(max_examples=60)
def test_a_flipped_bit_is_an_error_or_works(
    small_folder: Path, scratch: Path, at: int, bit: int
) -> None:
    damaged = bytearray((small_folder / "tokenizer.json").read_bytes())
    damaged[at % len(damaged)] ^= 1 << bit
    (scratch / "tokenizer.json").write_bytes(damaged)
    with contextlib.suppress(CorruptModel):
        tokenizer = Tokenizer.from_folder(scratch)
        tokenizer.ids("Once upon a time, 12 foxes didn't.")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAA="}},
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        {"decoder": {"type": "Strip", "content": "a", "start": 2**64 - 1, "stop": 2**64 - 1}},
    ],
)
def test_row_34_a_panic_in_the_library_is_an_error_and_says_nothing_itself(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], change: dict[str, object]
) -> None:
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}
    state = {"version": "1.0", "model": model, **change}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state), "utf-8")
    with pytest.raises(CorruptModel) as caught:
        Tokenizer.from_folder(tmp_path)
    assert type(caught.value.__cause__).__name__ == "PanicException"
    assert "tokenizer.json" in caught.value.message
    assert capfd.readouterr().err == ""


def test_a_panic_in_use_is_an_error(tmp_path: Path) -> None:
    template = {"type": "TemplateProcessing", "pair": [], "special_tokens": {}}
    state = {
        "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
        "post_processor": {**template, "single": [{"SpecialToken": {"id": "X", "type_id": 0}}]},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(state), "utf-8")
    with pytest.raises(CorruptModel, match="no entry"):
        _ = Tokenizer.from_folder(tmp_path).adds_bos


def test_a_failure_in_use_names_the_folder(tmp_path: Path) -> None:
    state = {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "x"}}
    state["pre_tokenizer"] = {"type": "CharDelimiterSplit", "delimiter": " "}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state), "utf-8")
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.ids("a") == [0]
    with pytest.raises(CorruptModel, match="UNK"):
        tokenizer.ids("b")


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)


def test_settings_for_training_batches_do_not_cut_the_text(
    small_folder: Path, tmp_path: Path
) -> None:
    backend = Backend.from_file(str(small_folder / "tokenizer.json"))
    backend.enable_truncation(3)
    backend.enable_padding(length=50)
    backend.save(str(tmp_path / "tokenizer.json"))
    text = "Once upon a time there was a fox."
    assert Tokenizer.from_folder(tmp_path).ids(text) == Tokenizer.from_folder(small_folder).ids(
        text
    )


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("content", ["[1]", "{", "[" * 100_000])
def test_a_broken_side_file_is_named(
    small_folder: Path, tmp_path: Path, name: str, content: str
) -> None:
    shutil.copy(small_folder / "tokenizer.json", tmp_path)
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(CorruptModel, match=name):
        _ = Tokenizer.from_folder(tmp_path).eos_id

"""Tokenizers that only transformers can build, against transformers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from llmcli.cli.main import cli
from llmcli.errors import CorruptModel, InvalidInput, UnsupportedModel
from llmcli.tokenization.tokenizer import Tokenizer

TEXT = "the fox was old the fox"


@pytest.fixture(scope="module")
def ctrl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CTRL's files are called as GPT-2's are, and mean something else; its class is Python."""
    folder = tmp_path_factory.mktemp("ctrl")
    letters = sorted(set(TEXT.replace(" ", "")))
    pieces = ["<unk>", *[each + "@@" for each in letters], *letters, "t@@h@@", "the", "fo@@", "fox"]
    (folder / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(pieces)}), "utf-8")
    merges = "#version: 0.2\nt h\nth e</w>\nf o\nfo x</w>\n"
    (folder / "merges.txt").write_text(merges, "utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CTRLTokenizer"}', "utf-8")
    (folder / "config.json").write_text('{"model_type": "ctrl"}', "utf-8")
    return folder


@pytest.fixture(scope="module")
def reference(ctrl: Path) -> Any:
    from transformers import AutoTokenizer

    load: Any = AutoTokenizer.from_pretrained
    return load(str(ctrl))


def test_the_ids_are_those_of_transformers(ctrl: Path, reference: Any) -> None:
    said: list[str] = []
    tokenizer = Tokenizer.from_folder(ctrl, detail=said.append)
    assert "transformers builds" in said[0]
    expected = reference(TEXT)["input_ids"]
    assert len(expected) > 3
    assert tokenizer.ids(TEXT) == expected
    assert tokenizer.encode(TEXT).ids == expected
    assert tokenizer.decode_bytes(expected) == reference.decode(expected).encode("utf-8")
    assert tokenizer.vocab_size == len(reference)
    with pytest.raises(InvalidInput, match="outside the vocabulary"):
        tokenizer.decode_bytes([10_000])


def test_offsets_end_where_the_text_does(ctrl: Path) -> None:
    encoding = Tokenizer.from_folder(ctrl).encode(TEXT)
    assert encoding.char_offsets[-1][1] == len(TEXT)
    assert all(a <= b for a, b in encoding.char_offsets)


def test_the_command_says_so_under_verbose(ctrl: Path, reference: Any) -> None:
    result = CliRunner().invoke(cli, ["encode", "-v", "-m", str(ctrl), TEXT])
    assert result.stdout.split() == [str(i) for i in reference(TEXT)["input_ids"]]
    assert "transformers builds" in result.stderr
    assert CliRunner().invoke(cli, ["encode", "-m", str(ctrl), TEXT]).stderr == ""


def test_what_transformers_cannot_build_is_said(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', "utf-8")
    with pytest.raises((UnsupportedModel, CorruptModel)) as caught:
        Tokenizer.from_folder(tmp_path)
    assert str(tmp_path) in caught.value.message
    assert caught.value.cure


def test_a_tokenizer_without_its_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}', "utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}', "utf-8")
    with pytest.raises((UnsupportedModel, CorruptModel)):
        Tokenizer.from_folder(tmp_path)

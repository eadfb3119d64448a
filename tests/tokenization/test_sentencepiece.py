"""Real files of SentencePiece and tiktoken, trained here, against transformers itself."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend

from llmcli.errors import UnsupportedModel
from llmcli.tokenization import with_transformers
from llmcli.tokenization.spelling import piece_bytes, spelling_of
from llmcli.tokenization.tokenizer import Tokenizer

TEXTS = [
    "the old fox said: 12 hens!\n",
    "  two  spaces\tand tabs\n\nnew",
    "Café naïve “quoted” 東京 🦊",
    "she didn't, they'll",
    "x",
    "",
]
_BPE = {"model_type": "bpe", "byte_fallback": True}
# By a folder's name: its file, how that is trained, the kind of model, the tokenizer's class.
CASES: dict[str, tuple[str, dict[str, Any], str, str | None]] = {
    "llama": ("tokenizer.model", _BPE, "llama", "LlamaTokenizer"),
    "mistral": ("tokenizer.model", _BPE, "mistral", None),
    "gemma": (
        "tokenizer.model",
        {**_BPE, "pad_id": 0, "unk_id": 3, "bos_id": 2, "eos_id": 1},
        "gemma",
        "GemmaTokenizer",
    ),
    "t5": ("spiece.model", {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}, "t5", None),
    "nllb": ("sentencepiece.bpe.model", {}, "m2m_100", "NllbTokenizer"),
    "camembert": ("sentencepiece.bpe.model", {}, "camembert", None),
    "gpt-sw3": ("spiece.model", _BPE, "gpt2", "GPTSw3Tokenizer"),
}


def trained(**settings: Any) -> bytes:
    sentencepiece = pytest.importorskip("sentencepiece")
    text = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.splitlines()),
        model_writer=written,
        minloglevel=2,
        hard_vocab_limit=False,
        **{"vocab_size": 500, "unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1, **settings},
    )
    return written.getvalue()


def put(folder: Path, file: str, data: bytes, kind: str, named: str | None) -> Path:
    (folder / file).write_bytes(data)
    (folder / "config.json").write_text(json.dumps({"model_type": kind}), "utf-8")
    if named is not None:
        content = json.dumps({"tokenizer_class": named})
        (folder / "tokenizer_config.json").write_text(content, "utf-8")
    return folder


def compare(folder: Path) -> Tokenizer:
    from transformers import AutoTokenizer

    load: Any = AutoTokenizer.from_pretrained
    reference = load(str(folder))
    for _ in range(2):  # the second time from what was kept
        ours = Tokenizer.from_folder(folder)
        for text in TEXTS:
            ids = reference(text, add_special_tokens=False)["input_ids"]
            assert ours.ids(text, special="allow") == ids
            decoded = reference.decode(ids, clean_up_tokenization_spaces=False)
            assert ours.decode_bytes(ids).decode("utf-8") == decoded
    return ours


@pytest.mark.parametrize("name", CASES)
def test_a_sentencepiece_file_has_the_ids_of_transformers(tmp_path: Path, name: str) -> None:
    pytest.importorskip("google.protobuf")
    file, settings, kind, named = CASES[name]
    ours = compare(put(tmp_path, file, trained(**settings), kind, named))
    ids = ours.ids("the model")
    assert ours.spelling.kind == "sentencepiece"
    assert b"".join(map(ours.token_bytes, ids)).lstrip() == b"the model"


def test_a_file_that_transformers_makes_nothing_of_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("google.protobuf")
    folder = put(tmp_path, "sentencepiece.bpe.model", trained(), "xglm", "XGLMTokenizer")
    with pytest.raises(UnsupportedModel, match="every word is unknown"):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize("file", ["tokenizer.model", "tiktoken.model"])
def test_a_tiktoken_file_has_the_ids_of_transformers(
    tmp_path: Path, tokenizer_folders: Callable[[str], Path], file: str
) -> None:
    pytest.importorskip("tiktoken")
    backend = Backend.from_file(str(tokenizer_folders("gpt2") / "tokenizer.json"))
    spelling = spelling_of(backend)
    ranks = sorted(backend.get_vocab(with_added_tokens=False).items(), key=lambda each: each[1])
    lines = [
        base64.b64encode(piece_bytes(piece, spelling)) + b" %d\n" % rank
        for rank, (piece, _) in enumerate(ranks)
        if piece != "<|endoftext|>"
    ]
    compare(put(tmp_path, file, b"".join(lines), "llama", "PreTrainedTokenizerFast"))


@pytest.mark.parametrize(
    ("data", "missing", "kind"),
    [(b"\n\x0e", "google.protobuf", "SentencePiece"), (b"IQ== 0\n", "tiktoken", "tiktoken")],
)
def test_packages_that_are_missing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, missing: str, kind: str
) -> None:
    def find(package: str) -> object:
        return None if package == missing else object()

    monkeypatch.setattr(with_transformers, "find_spec", find)
    with pytest.raises(UnsupportedModel, match=f"is a {kind} file") as caught:
        Tokenizer.from_folder(put(tmp_path, "tokenizer.model", data, "llama", None))
    assert "install" in (caught.value.cure or "")

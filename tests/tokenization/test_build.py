"""Tokenizers of folders as people have them: the ids that AutoTokenizer gives, by every way."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import RunLlmcli

from llmcli.cli.main import cli
from llmcli.errors import CorruptModel, LlmcliError
from llmcli.tokenization.build import tokenizer_cache
from llmcli.tokenization.tokenizer import Tokenizer

TEXT = "a <b><a> the<x> fox <pad> word\n"
GPT2 = {"tokenizer_class": "GPT2Tokenizer"}
PLAIN = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}


def token(content: str, *, special: bool = False) -> dict[str, Any]:
    return {"content": content, **PLAIN, "special": special}


# name -> (whether as a pair of files, the files beside, whether transformers has to build it).
# SIZE stands for the number of entries of the vocabulary, SIZE+1 for one more.
VARIANTS: dict[str, tuple[bool, dict[str, Any], bool]] = {
    "tokenizer.json": (False, {}, False),
    "gpt2 class": (False, {"tokenizer_config.json": GPT2}, False),
    "fast class": (
        False,
        {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"}},
        False,
    ),
    "pad token": (False, {"tokenizer_config.json": {**GPT2, "pad_token": "<pad>"}}, True),
    "pad token in the map": (False, {"special_tokens_map.json": {"pad_token": "<pad>"}}, True),
    "pad token that is there": (
        False,
        {"tokenizer_config.json": {**GPT2, "pad_token": "<|endoftext|>"}},
        False,
    ),
    "extra special tokens": (
        False,
        {"tokenizer_config.json": {**GPT2, "extra_special_tokens": ["<a>", "<b>"]}},
        True,
    ),
    "additional special tokens": (
        False,
        {"tokenizer_config.json": {**GPT2, "additional_special_tokens": ["<b>", "<a>"]}},
        True,
    ),
    "model's own token": (
        False,
        {"tokenizer_config.json": {**GPT2, "image_token": "<x>"}},
        True,
    ),
    "prefix space": (False, {"tokenizer_config.json": {**GPT2, "add_prefix_space": True}}, True),
    "added tokens beside": (
        False,
        {"tokenizer_config.json": GPT2, "added_tokens.json": {"<b>": "SIZE", "<a>": "SIZE+1"}},
        True,
    ),
    "decoder beside": (
        False,
        {"tokenizer_config.json": {**GPT2, "added_tokens_decoder": {"SIZE": token("<x>")}}},
        True,
    ),
    "decoder that says the same": (
        False,
        {
            "tokenizer_config.json": {
                **GPT2,
                "added_tokens_decoder": {"0": token("<|endoftext|>", special=True)},
            }
        },
        False,
    ),
    "begin of text beside": (
        False,
        {"tokenizer_config.json": {**GPT2, "add_bos_token": True}},
        False,  # transformers leaves it out where there is a tokenizer.json
    ),
    "pair": (True, {}, True),
    "pair, class": (True, {"tokenizer_config.json": GPT2}, True),
    "pair, begin of text": (
        True,
        {"tokenizer_config.json": {**GPT2, "add_bos_token": True, "bos_token": "<|endoftext|>"}},
        True,
    ),
    "pair, added tokens": (
        True,
        {
            "tokenizer_config.json": {**GPT2, "pad_token": "<pad>"},
            "added_tokens.json": {"<b>": "SIZE", "<a>": "SIZE+1", "<pad>": "SIZE+2"},
        },
        True,
    ),
    "pair, decoder": (
        True,
        {"tokenizer_config.json": {**GPT2, "added_tokens_decoder": {"SIZE": token("<x>")}}},
        True,
    ),
    "pair, prefix space": (
        True,
        {"tokenizer_config.json": {**GPT2, "add_prefix_space": True}},
        True,
    ),
    "pair, map": (
        True,
        {
            "tokenizer_config.json": GPT2,
            "special_tokens_map.json": {"pad_token": token("<pad>"), "unk_token": "<x>"},
        },
        True,
    ),
    "pair, neox": (True, {"tokenizer_config.json": {"tokenizer_class": "GPTNeoXTokenizer"}}, True),
    "neox": (False, {"tokenizer_config.json": {"tokenizer_class": "GPTNeoXTokenizer"}}, True),
    "qwen2": (False, {"tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer"}}, True),
    "unknown class": (
        False,
        {"tokenizer_config.json": {"tokenizer_class": "WonderTokenizer"}},
        True,
    ),
}


def sized(value: Any, size: int) -> Any:
    """The value with SIZE+N replaced by numbers."""
    if isinstance(value, dict):
        return {sized(key, size): sized(each, size) for key, each in value.items()}
    if isinstance(value, str) and value.startswith("SIZE"):
        return size + int(value.partition("+")[2] or 0)
    return value


@pytest.fixture
def make(small_folder: Path, tmp_path: Path) -> Callable[[str], Path]:
    def write(name: str) -> Path:
        pair, files, _ = VARIANTS[name]
        state = json.loads((small_folder / "tokenizer.json").read_text("utf-8"))
        size = len(state["model"]["vocab"])
        if pair:
            (tmp_path / "vocab.json").write_text(json.dumps(state["model"]["vocab"]), "utf-8")
            merges = "\n".join(" ".join(pair) for pair in state["model"]["merges"])
            (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", "utf-8")
        else:
            shutil.copy(small_folder / "tokenizer.json", tmp_path)
        (tmp_path / "config.json").write_text('{"model_type": "gpt2"}', "utf-8")
        for file, content in files.items():
            (tmp_path / file).write_text(json.dumps(sized(content, size)), "utf-8")
        return tmp_path

    return write


@pytest.mark.parametrize("name", VARIANTS)
def test_the_ids_are_those_of_transformers(make: Callable[[str], Path], name: str) -> None:
    from transformers import AutoTokenizer

    folder, said = make(name), list[str]()
    load: Any = AutoTokenizer.from_pretrained
    theirs = load(str(folder))
    for _ in range(2):  # the second time from our cache
        ours = Tokenizer.from_folder(folder, detail=said.append)
        front = [ours.bos_id] if ours.adds_bos else []
        assert [*front, *ours.ids(TEXT, special="allow")] == theirs(TEXT)["input_ids"]
        assert (
            ours.ids(TEXT)
            == theirs(TEXT, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        )
        assert ours.vocab_size == max(theirs.get_vocab().values()) + 1
        if theirs.eos_token_id is not None:  # else we look further
            assert ours.eos_id == theirs.eos_token_id
    assert len(said) == VARIANTS[name][2]
    assert len(list(tokenizer_cache().glob("*.json"))) == VARIANTS[name][2]


def test_encode_puts_the_begin_of_text_there_and_decode_takes_it_away(
    make: Callable[[str], Path],
) -> None:
    folder = make("pair, begin of text")
    result = CliRunner().invoke(cli, ["encode", "-m", str(folder), "the fox"])
    begin, *ids = map(int, result.stdout.split())
    assert begin == Tokenizer.from_folder(folder).bos_id
    bare = CliRunner().invoke(cli, ["encode", "--no-add-bos", "-m", str(folder), "the fox"])
    assert list(map(int, bare.stdout.split())) == ids
    count = CliRunner().invoke(cli, ["encode", "--count", "-m", str(folder), "the fox"])
    assert int(count.stdout) == len(ids) + 1
    decoded = CliRunner().invoke(cli, ["decode", "-m", str(folder)], input=result.stdout)
    assert decoded.stdout == "the fox"


@pytest.mark.parametrize(
    ("style", "text", "warns"),
    [
        ("gpt2", "naïve 🦊\r\n", False),
        ("nfc", "the old wood", False),
        ("nfc", "nai\u0308ve", True),
        ("prefix_space", "the fox", True),
        ("llama2", "the 🦊 fox", False),
    ],
)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_encode_warns_where_the_text_does_not_come_back(
    tokenizer_folders: Callable[[str], Path], style: str, text: str, warns: bool, form: list[str]
) -> None:
    folder = str(tokenizer_folders(style))
    result = CliRunner().invoke(cli, ["encode", *form, "-m", folder, text])
    assert result.exit_code == 0
    assert ("will not give back the same bytes" in result.stderr) == warns
    back = CliRunner().invoke(cli, ["decode", "-m", folder], input=result.stdout)
    assert (back.stdout_bytes == text.encode()) != warns


def test_a_later_start_imports_nothing_heavy(make: Callable[[str], Path]) -> None:
    folder = make("pair, added tokens")
    code = (
        "import sys; from pathlib import Path; from llmcli.tokenization.tokenizer import Tokenizer;"
        "print(*Tokenizer.from_folder(Path(sys.argv[1])).ids('a fox'));"
        "print('transformers' in sys.modules, 'torch' in sys.modules)"
    )

    def start() -> list[str]:
        command = [sys.executable, "-c", code, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout.splitlines()

    first, second = start(), start()
    assert first[0] == second[0]
    assert first[1].startswith("True")
    assert second[1] == "False False"


def test_another_file_is_another_tokenizer(make: Callable[[str], Path]) -> None:
    folder = make("pair, begin of text")
    assert Tokenizer.from_folder(folder).adds_bos
    (folder / "tokenizer_config.json").write_text(json.dumps(GPT2), "utf-8")
    assert not Tokenizer.from_folder(folder).adds_bos


@pytest.mark.parametrize("content", [b"", b"{}", b'{"named": {}, "tokenizer": "{}"}', b"[1]"])
def test_a_broken_cache_is_built_anew(make: Callable[[str], Path], content: bytes) -> None:
    folder = make("pair, begin of text")
    expected = Tokenizer.from_folder(folder).ids(TEXT)
    (kept,) = tokenizer_cache().glob("*.json")
    kept.write_bytes(content)
    assert Tokenizer.from_folder(folder).ids(TEXT) == expected
    assert kept.read_bytes() != content


def test_an_id_beyond_any_vocabulary_is_refused_by_every_start(
    make: Callable[[str], Path],
) -> None:
    folder = make("pair")
    vocabulary = json.loads((folder / "vocab.json").read_text("utf-8"))
    token = next(reversed(vocabulary))
    (folder / "vocab.json").write_text(json.dumps({**vocabulary, token: 1 << 24}), "utf-8")
    for _ in range(2):
        with pytest.raises(CorruptModel, match="beyond any vocabulary"):
            _ = Tokenizer.from_folder(folder).vocab_size


def test_merges_that_the_older_form_cannot_say_are_kept(small_folder: Path, tmp_path: Path) -> None:
    """Parts with a space in them, and a line that would be taken for a heading."""
    state = json.loads((small_folder / "tokenizer.json").read_text("utf-8"))
    vocabulary, merges = state["model"]["vocab"], state["model"]["merges"]
    for text in ("Ġ t", "#version"):
        vocabulary[text] = len(vocabulary)
    for pair in (["Ġ", " t"], ["#version", "x"]):
        vocabulary["".join(pair)] = len(vocabulary)
        vocabulary.setdefault(pair[1], len(vocabulary))
        merges.append(pair)
    (tmp_path / "tokenizer.json").write_text(json.dumps(state), "utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}', "utf-8")
    named = {"tokenizer_config.json": {**GPT2, "pad_token": "<pad>"}}  # so that it is built
    for file, content in named.items():
        (tmp_path / file).write_text(json.dumps(content), "utf-8")
    built, kept = (json.loads(Tokenizer.from_folder(tmp_path).backend.to_str()) for _ in range(2))
    assert kept["model"]["merges"] == built["model"]["merges"]
    assert ["Ġ", " t"] in kept["model"]["merges"]


def test_a_cache_that_cannot_be_written_is_no_error(
    make: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert Tokenizer.from_folder(make("pair")).ids("the")


def test_dropout_is_off(small_folder: Path, tmp_path: Path) -> None:
    state = json.loads((small_folder / "tokenizer.json").read_text("utf-8"))
    state["model"]["dropout"] = 0.9
    (tmp_path / "tokenizer.json").write_text(json.dumps(state), "utf-8")
    text = "Once upon a time there was a little fox. " * 20
    assert Tokenizer.from_folder(tmp_path).ids(text) == Tokenizer.from_folder(small_folder).ids(
        text
    )


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Prepend", "prepend": "x" * 10**7}},
        {"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 2000}},
        {
            "normalizer": {
                "type": "Sequence",
                "normalizers": [
                    {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 30}
                ]
                * 8,
            }
        },
        {"decoder": {"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 10**6}},
    ],
)
def test_a_tokenizer_that_swells_every_text_is_refused(
    small_folder: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    state = json.loads((small_folder / "tokenizer.json").read_text("utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps({**state, **change}), "utf-8")
    with pytest.raises(CorruptModel, match="characters into every text"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("value", [5, True, "x", None, {"a": 5}, [5, None], [[]]])
@pytest.mark.parametrize(
    "key", ["extra_special_tokens", "added_tokens_decoder", "pad_token", "tokenizer_class"]
)
def test_settings_of_odd_types_are_read_or_refused(
    small_folder: Path, tmp_path: Path, key: str, value: object
) -> None:
    shutil.copy(small_folder / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({key: value}))
    with contextlib.suppress(LlmcliError):
        Tokenizer.from_folder(tmp_path).ids("the fox")


def test_padding_and_cutting_of_any_size_are_off(small_folder: Path, tmp_path: Path) -> None:
    state = json.loads((small_folder / "tokenizer.json").read_text("utf-8"))
    state["padding"] = {
        "strategy": {"Fixed": 10**9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(state), "utf-8")
    assert len(Tokenizer.from_folder(tmp_path).ids("the fox")) < 10


def test_a_panic_on_a_text_prints_nothing_of_its_own(
    small_folder: Path, tmp_path: Path, run_llmcli: RunLlmcli
) -> None:
    state = json.loads((small_folder / "tokenizer.json").read_text("utf-8"))
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}
    steps = [{**split, "invert": False}, state["pre_tokenizer"]]
    state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state), "utf-8")
    done = run_llmcli("encode", "-m", str(tmp_path), "a" * 40 + "b")
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: The tokenizer in ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("style", ["gpt2", "llama3", "qwen2", "gpt4o", "llama2"])
def test_real_tokenizers_write_to_stderr_as_ever(
    tokenizer_folders: Callable[[str], Path], style: str
) -> None:
    """stderr is held back around searches that can panic, and a bar must not wait for them."""
    assert not Tokenizer.from_folder(tokenizer_folders(style))._has_expressions


def test_remarks_of_the_library_do_not_reach_stdout(
    make: Callable[[str], Path], run_llmcli: RunLlmcli
) -> None:
    folder = make("pair, decoder")
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_bytes())
    for entry in content["added_tokens_decoder"].values():
        entry["surprise"] = 1
    path.write_text(json.dumps(content))
    done = run_llmcli("encode", "-m", str(folder), "the fox")
    assert done.returncode == 0
    assert done.stdout.replace(b" ", b"").strip().isdigit()
    assert done.stderr == b""


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_files_that_are_no_files(
    small_folder: Path, tmp_path: Path, run_llmcli: RunLlmcli, name: str, kind: str
) -> None:
    shutil.copy(small_folder / "tokenizer.json", tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    done = run_llmcli("encode", "-m", str(tmp_path), "a", timeout=20)
    assert done.returncode == 1
    assert f"{name} is a {kind}, not a file".encode() in done.stderr

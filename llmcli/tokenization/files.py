"""A folder's tokenizer files -> the `tokenizers` library's object, with errors that name the file.

A folder has ``tokenizer.json`` (everything in one file), or ``vocab.json`` and ``merges.txt``
(older GPT-2 repositories). Which ids begin and end a text stands in one of four other files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from llmcli.errors import CorruptModel, StorageError, UnsupportedModel

__all__ = ["has_tokenizer", "named_token", "needs_transformers", "read_backend", "read_json"]

_REFETCH = "Fetch the file again (--refresh), or copy it from the model's source."
_MAX_JSON = 256 << 20  # the largest published tokenizer.json files are below 40 MB
_END_OF_TEXT = "<|endoftext|>"  # what GPT-2's own code uses where no file says so
_GPT2_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast")
# What transformers builds other tokenizers from.
_OTHER_FILES = (
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "source.spm"),
    *("vocab.txt", "vocab.json", "bpe.codes", "tekken.json", "tokenizer_config.json"),
)


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder holds files that `read_backend` can read."""
    return (folder / "tokenizer.json").is_file() or _is_gpt2(folder)


def needs_transformers(folder: Path) -> bool:
    """Whether only transformers may be able to build the folder's tokenizer."""
    if has_tokenizer(folder):
        return False
    return any((folder / name).is_file() for name in _OTHER_FILES)


def _is_gpt2(folder: Path) -> bool:
    """vocab.json and merges.txt, and no word of a tokenizer that reads them in another way."""
    if not ((folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()):
        return False
    name = read_json(folder / "tokenizer_config.json").get("tokenizer_class")
    if name is not None:
        return name in _GPT2_CLASSES
    return read_json(folder / "config.json").get("model_type") in (None, "gpt2")


def read_backend(folder: Path) -> Backend:
    """Read the folder's tokenizer.

    Raises:
        UnsupportedModel: the folder holds no tokenizer file that is known here.
        CorruptModel: a file is empty, cut, altered, or not what its name says.
        StorageError: a file cannot be read.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        data = _read(path)
        with _reading(path):
            backend = Backend.from_buffer(data)
            _try_out(backend)
    elif has_tokenizer(folder):
        backend = _read_gpt2(folder)
    else:
        raise UnsupportedModel(
            f"{folder} has no tokenizer.json, and no vocab.json with merges.txt.",
            "Name a model whose folder holds its tokenizer, or copy the files there.",
        )
    if backend.get_vocab_size() == 0:
        raise CorruptModel(f"The tokenizer in {folder} has an empty vocabulary.", _REFETCH)
    # What a file says of cutting and filling is for training in batches; here text stays whole.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _read_gpt2(folder: Path) -> Backend:
    """Byte-level BPE from ``vocab.json`` and ``merges.txt``, as GPT-2's own code builds it."""
    vocab_path, merges_path = folder / "vocab.json", folder / "merges.txt"
    for path in (vocab_path, merges_path):
        _check_head(path, _read(path, limit=200))
    with _reading(vocab_path, merges_path):
        backend = Backend(BPE.from_file(str(vocab_path), str(merges_path)))
        _try_out(backend)
    config = read_json(folder / "tokenizer_config.json")
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=bool(config.get("add_prefix_space", False))
    )
    backend.decoder = decoders.ByteLevel()
    special = [
        text
        for key in ("bos_token", "eos_token", "unk_token", "pad_token")
        if (text := named_token(folder, key)) is not None
    ]
    if backend.token_to_id(_END_OF_TEXT) is not None:
        special.append(_END_OF_TEXT)
    backend.add_special_tokens(
        [AddedToken(text, normalized=False, special=True) for text in dict.fromkeys(special)]
    )
    added = read_json(folder / "added_tokens.json")
    if not all(type(token_id) is int for token_id in added.values()):
        raise CorruptModel(f"{folder / 'added_tokens.json'} has an id that is no number.", _REFETCH)
    for text in sorted(added, key=added.__getitem__):
        if text not in special:
            backend.add_tokens([AddedToken(text, normalized=False)])
    return backend


def named_token(folder: Path, key: str) -> str | None:
    """The text of a token such as "eos_token" by tokenizer_config or special_tokens_map."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        value = read_json(folder / name).get(key)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            return value
    return None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one if there is no such file.

    Raises:
        CorruptModel: the file is not a JSON object.
        StorageError: the file cannot be read.
    """
    if not path.is_file():
        return {}
    data = _read(path)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise CorruptModel(f"{path} is not JSON ({exc}).", _REFETCH) from exc
    if not isinstance(value, dict):
        raise CorruptModel(f"{path} is not a JSON object.", _REFETCH)
    return value


def _read(path: Path, *, limit: int = -1) -> bytes:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise CorruptModel(f"{path} is larger than any tokenizer's file.", _REFETCH)
        with path.open("rb") as file:
            data = file.read(limit)
    except OSError as exc:
        raise StorageError(
            f"{path} cannot be read: {exc.strerror}.", "Check the file's permissions."
        ) from exc
    _check_head(path, data)
    return data


def _check_head(path: Path, data: bytes) -> None:
    if not data.strip():
        raise CorruptModel(f"{path} is empty.", _REFETCH)
    if data.startswith(b"version https://git-lfs"):
        raise CorruptModel(
            f"{path} is a Git LFS pointer, not the file itself.",
            "Run `git lfs pull` in that folder, or fetch the model again.",
        )


def _try_out(backend: Backend) -> None:
    """Use it once: some broken files load, and panic at their first text.

    Its plain ``Exception`` may be for these letters alone (no unknown token): that is for the
    text to come.
    """
    try:
        backend.decode(backend.encode("a b", add_special_tokens=False).ids)
    except Exception as exc:
        if type(exc) is not Exception:
            raise


@contextmanager
def _reading(*paths: Path) -> Iterator[None]:
    """Translate what the native library raises on a bad file.

    It raises ``ValueError``, plain ``Exception``, and pyo3's PanicException, a BaseException,
    where its own code fails on a crafted file. Nothing else is taken.
    """
    try:
        with _quiet_panics():
            yield
    except BaseException as exc:
        if not (is_native_failure(exc) or isinstance(exc, ValueError)):
            raise
        names = " or ".join(str(path) for path in paths)
        raise CorruptModel(f"{names} is not a tokenizer file: {one_line(exc)}.", _REFETCH) from exc


@contextmanager
def _quiet_panics() -> Iterator[None]:
    """Keep stderr's descriptor to ourselves: a panic writes there before it can be caught."""
    try:
        saved = os.dup(2)
    except OSError:  # closed: nothing to keep
        yield
        return
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def is_native_failure(exc: BaseException) -> bool:
    """Whether the `tokenizers` library itself raised this: ``Exception`` bare, or a panic."""
    return type(exc) is Exception or type(exc).__name__ == "PanicException"


def one_line(exc: BaseException) -> str:
    """What a foreign error says, on one line of at most 200 characters, without its full stop."""
    return " ".join(str(exc).split())[:200].rstrip(".")

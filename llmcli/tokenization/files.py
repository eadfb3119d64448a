"""tokenizer.json -> the `tokenizers` library's object, with errors that name the file.

Which tokens begin and end a text stands in one of four other files. What transformers adds to
tokenizer.json, and what it builds where there is none, is in `llmcli.tokenization.build`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from llmcli.errors import CorruptModel, StorageError
from llmcli.io.model_files import LARGEST_TOKENIZER, read_regular
from llmcli.tokenization.panics import quiet_panics

__all__ = ["named_token", "read_backend", "read_json", "ready"]

_REFETCH = "Fetch the file again (--refresh), or copy it from the model's source."
_LARGEST_BESIDE = 16 << 20  # bytes of the files beside tokenizer.json; real ones have below 4 MB
# What a step of a tokenizer may write into a text, and how much several may multiply it.
_INSERTS = ("content", "prepend", "replacement", "prefix", "suffix", "pad_token")
_LONGEST_INSERT = 1000
_LARGEST_GROWTH = 10**4


def read_backend(folder: Path) -> Backend:
    """Read tokenizer.json as it stands.

    Raises:
        CorruptModel: it is empty, cut, altered, not what its name says, or asks for too much.
        StorageError: it cannot be read.
    """
    path = folder / "tokenizer.json"
    data = _read(path, LARGEST_TOKENIZER)
    with _reading(path):
        return ready(Backend.from_buffer(data), path)


def ready(backend: Backend, path: Path) -> Backend:
    """Make a tokenizer fit for use, whoever built it: repeatable, whole texts, bounded work.

    Args:
        backend: The library's object.
        path: Its file or folder, for messages.

    Raises:
        CorruptModel: It has no vocabulary, or puts more than a name's length into texts.
    """
    # What a file says of cutting and filling is for training in batches; here text stays whole.
    backend.no_truncation()
    backend.no_padding()
    _refuse_swelling(backend, path)
    if getattr(backend.model, "dropout", None) is not None:
        # For training, too: the same text is to give the same tokens every time.
        backend.model.dropout = None
    with _reading(path):
        _try_out(backend)
    if backend.get_vocab_size() == 0:
        raise CorruptModel(f"The tokenizer in {path} has an empty vocabulary.", _REFETCH)
    return backend


def _refuse_swelling(backend: Backend, path: Path) -> None:
    """Refuse steps that make gigabytes of a short text."""
    growth = 1
    for part in (backend.normalizer, backend.pre_tokenizer, backend.decoder):
        for step in steps_of(json.loads(part.__getstate__()) if part is not None else None):
            texts = [value for key, value in step.items() if key in _INSERTS]
            longest = max((len(text) for text in texts if isinstance(text, str)), default=0)
            growth *= max(1, longest) if step.get("type") in ("Replace", "Prepend") else 1
            if longest > _LONGEST_INSERT or growth > _LARGEST_GROWTH:
                raise CorruptModel(
                    f"{path} puts {longest:,} characters into every text ({step.get('type')}).",
                    _REFETCH,
                )


def repeats_groups(part: Any) -> bool:
    """Whether a component searches for an expression such as ``(a+)+``.

    What real tokenizers search for does not; that such a search can take for ever, and ends in a
    panic, is what makes the difference.
    """
    for step in steps_of(json.loads(part.__getstate__())):
        pattern = step.get("pattern")
        expression = pattern.get("Regex") if isinstance(pattern, dict) else None
        if isinstance(expression, str) and re.search(r"\)[+*{]", expression):
            return True
    return False


def steps_of(state: Any) -> Iterator[dict[str, Any]]:
    """A component's steps, those of sequences included."""
    if isinstance(state, dict):
        yield state
        for key in ("normalizers", "pretokenizers", "decoders"):
            for step in state.get(key) or ():
                yield from steps_of(step)


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
    if not os.path.lexists(path):
        return {}
    data = _read(path, _LARGEST_BESIDE)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise CorruptModel(f"{path} is not JSON ({exc}).", _REFETCH) from exc
    if not isinstance(value, dict):
        raise CorruptModel(f"{path} is not a JSON object.", _REFETCH)
    return value


def _read(path: Path, most: int) -> bytes:
    try:
        data = read_regular(path, most, cure=_REFETCH)
    except OSError as exc:
        raise StorageError(
            f"{path} cannot be read: {exc.strerror}.", "Check the file's permissions."
        ) from exc
    if not data.strip():
        raise CorruptModel(f"{path} is empty.", _REFETCH)
    if data.startswith(b"version https://git-lfs"):
        raise CorruptModel(
            f"{path} is a Git LFS pointer, not the file itself.",
            "Run `git lfs pull` in that folder, or fetch the model again.",
        )
    return data


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
        with quiet_panics():
            yield
    except BaseException as exc:
        if not (is_native_failure(exc) or isinstance(exc, ValueError)):
            raise
        names = " or ".join(str(path) for path in paths)
        raise CorruptModel(f"{names} is not a tokenizer file: {one_line(exc)}.", _REFETCH) from exc


def is_native_failure(exc: BaseException) -> bool:
    """Whether the `tokenizers` library itself raised this: ``Exception`` bare, or a panic."""
    return type(exc) is Exception or type(exc).__name__ == "PanicException"


def one_line(exc: BaseException) -> str:
    """What a foreign error says, on one line of at most 200 characters, without its full stop."""
    return " ".join(str(exc).split())[:200].rstrip(".")

"""A folder's tokenizer, the one way for every command: what transformers makes of its files.

tokenizer.json alone does not say everything: transformers adds tokens that stand in the files
beside it, and its classes have rules of their own. Where all of that is in tokenizer.json
already, which is seen without transformers, the file is read as it stands. Everything else,
older forms such as ``vocab.json`` with ``merges.txt`` included, transformers builds, once: the
result is kept in our own cache, by the contents of the files, so that later starts import
nothing heavy.

::

    $XDG_CACHE_HOME/llmcli/tokenizers/     (~/.cache/llmcli/tokenizers)
        HASH.json                          HASH: of the files and of the libraries' releases
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers import __version__ as tokenizers_version
from tokenizers.models import BPE

from llmcli.errors import CorruptModel, StorageError, UnsupportedModel
from llmcli.io.model_files import (
    LARGEST_TOKENIZER,
    has_tokenizer,
    read_regular,
    regular_files,
    tokenizer_files,
)
from llmcli.tokenization.files import read_backend, read_json, ready
from llmcli.tokenization.panics import quiet_panics

__all__ = ["Built", "build", "tokenizer_cache"]

_FORMAT = 2
_MOST_KEPT = 64  # tokenizers in the cache; the ones not used for longest go first

# Classes of transformers that take tokenizer.json as it stands...
_VERBATIM = ("PreTrainedTokenizerFast", "TokenizersBackend")
# ...for these kinds of model, whose own class does not go before the one that is named.
_TRUSTING = ("gpt2", "gpt_neo", "gptj", "gpt_neox", "llama", "bloom", "falcon", "mpt", "opt")
_GPT2_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast")
_GPT2_TYPES = ("gpt2", "gpt_neo", "gptj")
_END_OF_TEXT = "<|endoftext|>"  # of GPT-2's class, where no file names another


@dataclass(frozen=True, slots=True)
class Built:
    """A tokenizer and what its class says of it.

    Attributes:
        backend: The library's object.
        named: Texts of bos_token, eos_token and pad_token by transformers; empty where
            tokenizer.json was read as it stands, whose neighbours say so.
        vocab_size: One more than the highest id, where it is known already.
    """

    backend: Backend
    named: Mapping[str, str]
    vocab_size: int | None = None


def build(folder: Path, detail: Callable[[str], None]) -> Built:
    """Build the tokenizer of a model's folder.

    Args:
        folder: The folder.
        detail: Told, in a sentence, when transformers has to build it.

    Raises:
        UnsupportedModel: There is none, or transformers cannot build it.
        CorruptModel: A file is empty, cut, or not what its name says.
        StorageError: A file cannot be read.
    """
    names = regular_files(folder)
    if os.path.lexists(folder / "tokenizer.json"):
        # Whoever reads it in the end: what is wrong with it is named here.
        backend = read_backend(folder)
        if _is_all(folder, backend):
            return Built(backend, {})
    elif not has_tokenizer(names):
        raise UnsupportedModel(
            f"{folder} has no tokenizer.json, and no vocab.json with merges.txt.",
            "Name a model whose folder holds its tokenizer, or copy the files there.",
        )
    files = {name: _contents(folder / name) for name in tokenizer_files(names)}
    hints = _hints(folder)
    place = tokenizer_cache() / f"{_key(files, hints)}.json"
    return _kept(place) or _convert(folder, files, hints, place, detail)


def tokenizer_cache() -> Path:
    """Where built tokenizers are kept; it need not exist."""
    parent = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return Path(os.path.expanduser(parent)) / "llmcli" / "tokenizers"


# -- tokenizer.json as it stands -------------------------------------------------------------


def _is_all(folder: Path, backend: Backend) -> bool:
    """Whether transformers would make exactly this of tokenizer.json and its neighbours."""
    config = read_json(folder / "tokenizer_config.json")
    hints = _hints(folder)
    declared = config.get("tokenizer_class") or hints.get("tokenizer_class")
    kind = hints.get("model_type")
    if config.get("auto_map") or config.get("fast_tokenizer_files"):
        return False
    named = {*_named(config), *_named(read_json(folder / "special_tokens_map.json"))}
    if declared is None and kind is None:
        pass  # no class claims it: there is tokenizer.json alone
    elif declared in _VERBATIM or (declared is None and kind == "llama"):
        if kind is not None and kind not in _TRUSTING:
            return False
    elif declared in (None, *_GPT2_CLASSES) and kind in (None, *_GPT2_TYPES):
        if not _is_gpt2_shaped(backend, bool(config.get("add_prefix_space", False))):
            return False
        named.add(_END_OF_TEXT)
    else:
        return False
    return _are_added(named, backend) and _agree(config, folder, backend)


def _hints(folder: Path) -> dict[str, str]:
    """What of config.json transformers chooses the tokenizer's class by."""
    try:
        config = read_json(folder / "config.json")
    except CorruptModel:
        return {}  # the model's to complain of
    keys = ("model_type", "tokenizer_class", "transformers_version")
    hints = {key: value for key in keys if isinstance(value := config.get(key), str)}
    if not hints.keys() & {"model_type", "tokenizer_class"} and (folder / "merges.txt").is_file():
        hints["model_type"] = "gpt2"  # where the pair of files comes from
    return hints


def _named(config: Mapping[str, Any]) -> Iterator[str]:
    """The texts of the special tokens that a file names."""
    for key, value in config.items():
        if key.endswith("_token"):
            yield from _texts(value)
        elif key in ("extra_special_tokens", "additional_special_tokens"):
            listed = list(value.values()) if isinstance(value, dict) else value
            for each in listed if isinstance(listed, list) else ():
                yield from _texts(each)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = value.get("content")
    if isinstance(value, str):
        yield value


def _is_gpt2_shaped(backend: Backend, prefix_space: bool) -> bool:
    """Whether tokenizer.json has the steps that GPT-2's class builds itself, and no others."""
    model, splitter, decoder = backend.model, backend.pre_tokenizer, backend.decoder
    if not isinstance(model, BPE) or backend.normalizer is not None:
        return False
    odd = ("unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk")
    if any(getattr(model, key) for key in (*odd, "byte_fallback", "ignore_merges")):
        return False
    if splitter is None or decoder is None:
        return False
    state = json.loads(splitter.__getstate__())
    return bool(
        state["type"] == "ByteLevel"
        and state["use_regex"]
        and state["add_prefix_space"] == prefix_space
        and json.loads(decoder.__getstate__())["type"] == "ByteLevel"
    )


def _are_added(named: set[str], backend: Backend) -> bool:
    """Whether all of these are special tokens by tokenizer.json itself."""
    added = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    plain = backend.normalizer is None
    return all(
        (token := added.get(text)) is not None and token.special and (plain or not token.normalized)
        for text in named
    )


def _agree(config: Mapping[str, Any], folder: Path, backend: Backend) -> bool:
    """Whether the other lists of added tokens say nothing that tokenizer.json does not."""
    added = backend.get_added_tokens_decoder()
    listed = config.get("added_tokens_decoder") or {}
    older = read_json(folder / "added_tokens.json")
    return isinstance(listed, dict) and (
        all(_is_token(added, number, entry) for number, entry in listed.items())
        and all(
            type(number) is int and number in added and added[number].content == text
            for text, number in older.items()
        )
    )


def _is_token(added: Mapping[int, AddedToken], number: str, entry: Any) -> bool:
    token = added.get(int(number)) if number.isdecimal() else None
    if token is None or not isinstance(entry, dict) or token.content != entry.get("content"):
        return False
    flags = ("lstrip", "rstrip", "single_word", "special")
    return all(getattr(token, flag) == entry.get(flag, False) for flag in flags) and (
        token.normalized == entry.get("normalized", not token.special)
    )


# -- what transformers builds ----------------------------------------------------------------


def _contents(path: Path) -> bytes:
    try:
        return read_regular(path, LARGEST_TOKENIZER)
    except OSError as exc:
        raise StorageError(
            f"{path} cannot be read: {exc.strerror}.", "Check the file's permissions."
        ) from exc


def _key(files: Mapping[str, bytes], hints: Mapping[str, str]) -> str:
    libraries = [tokenizers_version, *_state_of("transformers")]
    digest = hashlib.sha256(json.dumps([_FORMAT, libraries, hints], sort_keys=True).encode())
    for name, data in sorted(files.items()):
        digest.update(f"\n{name} {hashlib.sha256(data).hexdigest()}".encode())
    return digest.hexdigest()[:40]


def _state_of(library: str) -> list[str | int]:
    """What another release of a library changes, found without importing anything."""
    spec = find_spec(library)
    if spec is None or spec.origin is None:
        return []
    state = os.stat(spec.origin)
    return [spec.origin, state.st_size, state.st_mtime_ns]


def _kept(place: Path) -> Built | None:
    """What was built of the same files before; None where there is nothing, or nonsense."""
    try:
        state = json.loads(read_regular(place, 2 * LARGEST_TOKENIZER))
        named = {str(key): str(text) for key, text in state["named"].items()}
        with suppress(OSError):  # a cache that is only read stays in use
            os.utime(place)
        with quiet_panics():
            backend = ready(Backend.from_str(state["tokenizer"]), place)
            return Built(backend, named, int(state["vocab_size"]))
    except Exception as exc:
        if type(exc) is Exception or isinstance(
            exc, OSError | ValueError | KeyError | TypeError | AttributeError | CorruptModel
        ):
            return None
        raise


def _convert(
    folder: Path,
    files: Mapping[str, bytes],
    hints: Mapping[str, str],
    place: Path,
    detail: Callable[[str], None],
) -> Built:
    from llmcli.tokenization.with_transformers import build_with_transformers

    detail(f"transformers builds the tokenizer of {folder}; what it makes is kept.")
    with tempfile.TemporaryDirectory(prefix="llmcli-") as scratch:
        # Only these files, as they were when the key was taken, and nothing of the model's code.
        for name, data in files.items():
            Path(scratch, name).write_bytes(data)
        Path(scratch, "config.json").write_text(json.dumps(hints), "utf-8")
        settings = read_json(folder / "tokenizer_config.json")
        settings = {key: _untyped(value) for key, value in settings.items()}
        Path(scratch, "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
        backend, named = build_with_transformers(Path(scratch), folder)
    if isinstance(backend, Backend):
        ready(backend, folder)
        size = max(backend.get_vocab().values()) + 1
        state = {"named": named, "vocab_size": size, "tokenizer": _read_soonest(backend)}
        _keep(place, json.dumps(state, ensure_ascii=False))
    return Built(backend, named)


def _read_soonest(backend: Backend) -> str:
    """A tokenizer as JSON, with merges in the older form, ``"a b"``, which is read in less time."""
    state = json.loads(backend.to_str())
    merges = state["model"].get("merges")
    if merges and not any(_reads_otherwise(part) for pair in merges for part in pair):
        state["model"]["merges"] = [" ".join(pair) for pair in merges]
    return json.dumps(state, ensure_ascii=False)


def _reads_otherwise(part: str) -> bool:
    """Whether the older form of merges is not able to say this."""
    return " " in part or part.startswith("#version")


def _untyped(value: Any) -> Any:
    """A token that old files write as an object without its type, which transformers refuses."""
    bare = isinstance(value, dict) and isinstance(value.get("content"), str)
    return value["content"] if bare and "__type" not in value else value


def _keep(place: Path, text: str) -> None:
    """Write atomically, and make room; a cache that cannot be written is no reason to fail."""
    temporary = ""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=".building-")
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, place)
        kept = sorted(place.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in kept[:-_MOST_KEPT]:
            path.unlink(missing_ok=True)
    except OSError:
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)

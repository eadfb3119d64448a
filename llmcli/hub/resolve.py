"""From what was typed to a folder with files: a folder, a bundled model, the cache, the Hub."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from llmcli.errors import (
    AccessDenied,
    CorruptModel,
    HubUnreachable,
    InvalidInput,
    ModelNotFound,
    OfflineMiss,
    UnsafeModel,
)
from llmcli.hub import cache
from llmcli.hub.adapters import base_of, is_adapter
from llmcli.hub.cache import CachedModel, Need
from llmcli.hub.reference import (
    DEFAULT_MODEL,
    ModelReference,
    bundled_models,
    parse_reference,
    quoted,
)
from llmcli.io.model_files import has_tokenizer, regular_files
from llmcli.reporting import Notify, Progress, silent

_FALLBACK_SECONDS = 3.0
_LARGE = 64 << 20  # a file of so many bytes takes a tenth of a second to hash


@dataclass(frozen=True)
class ResolvedModel:
    """A model whose files are on this machine.

    Attributes:
        name: What was typed, without the revision.
        origin: Where it came from.
        folder: The folder that holds config.json, the tokenizer and the weights.
        commit: The Hub's commit; None for a folder and for a bundled model.
        adapter: The folder of an adapter that is to be merged into it.
    """

    name: str
    origin: Literal["folder", "bundled", "hub"]
    folder: Path
    commit: str | None = None
    adapter: Path | None = None

    @cached_property
    def revision(self) -> str | None:
        """What pins the weights: the commit, or the sha256 of a local folder's weights.

        Reads the weights the first time; None where a folder has none. Of several files, the
        hash is that of their hashes, in the order of their names.
        """
        if self.commit is not None:
            return self.commit
        files = [
            path
            for path in cache.weight_files(self.folder, allow_pickle=True)
            if path.suffix != ".json"
        ]
        try:
            digests = [_sha256(path) for path in sorted(files)]
        except OSError as error:
            raise CorruptModel(
                f"The weights in {quoted(str(self.folder))} cannot be read: {error.strerror}."
            ) from error
        if len(digests) <= 1:
            return digests[0] if digests else None
        import hashlib

        return hashlib.sha256("".join(digests).encode("ascii")).hexdigest()


def resolve(
    name: str | None = None,
    *,
    revision: str | None = None,
    offline: bool = False,
    refresh: bool = False,
    timeout: float = 10.0,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    need: Need = "model",
    notify: Notify = silent,
    progress: Progress | None = None,
) -> ResolvedModel:
    """Find a model's files: a folder, a bundled model, the Hub cache, the Hub; in that order.

    Args:
        name: A folder, a bundled model's name, or a Hub id with an optional ``@REVISION``;
            None for the default, gpt2, which the bundled model stands in for where gpt2 is
            neither cached nor to be had within 3 seconds.
        revision: A branch, tag or commit on the Hub.
        offline: Never use the network (so does HF_HUB_OFFLINE=1).
        refresh: Ask the Hub although the model is cached.
        timeout: Seconds until the first byte of a file has arrived, and the longest stall.
        allow_pickle: Whether pickled weights will do.
        trust_remote_code: Whether to fetch the Python files of a repository, too.
        need: ``"tokenizer"`` fetches only what encoding and decoding use.
        notify: Called with one sentence about what the user ought to know.
        progress: Called with a file's name, the bytes there, and its size if known.

    Raises:
        InvalidInput: The name or the revision can be no such thing.
        ModelNotFound: Nothing has that name.
        OfflineMiss: It is not in the cache and the network is off.
        ModelError, StorageError: It cannot be had; see `llmcli.hub.download.download`.
    """
    wishes = _Wishes(
        need=need,
        offline=offline,
        refresh=refresh,
        timeout=timeout,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
        notify=notify,
        progress=progress,
    )
    if name is None:
        return _resolve_default(revision, wishes)
    reference = parse_reference(name, revision)
    local = _resolve_local(reference, notify)
    if local is not None:
        return _with_base(local, wishes)
    reference.require_hub_id()
    return _with_base(_resolve_hub(reference, wishes), wishes)


def _with_base(found: ResolvedModel, wishes: _Wishes) -> ResolvedModel:
    """An adapter's folder stands for the model that it belongs to, and itself."""
    if not is_adapter(found.folder):
        return found
    if wishes.need == "tokenizer" and has_tokenizer(regular_files(found.folder)):
        return found
    name = base_of(found.folder)
    reference = parse_reference(name)
    # What comes from the Hub does not choose among this machine's folders.
    base = None if found.origin == "hub" else _resolve_local(reference, wishes.notify)
    if base is None:
        reference.require_hub_id()
        base = _resolve_hub(reference, wishes)
    return replace(base, name=found.name, adapter=found.folder)


def find_local(
    name: str, *, revision: str | None = None, need: Need = "model", notify: Notify
) -> ResolvedModel:
    """Find a model that is on this machine, whatever the network could bring.

    Raises:
        InvalidInput: The name or the revision can be no such thing.
        ModelNotFound: It is not here, or not all of it.
    """
    reference = parse_reference(name, revision)
    local = _resolve_local(reference, notify)
    if local is not None:
        return local
    reference.require_hub_id()
    folder = cache.cache_folder()
    found = cache.find_cached(
        folder, reference.name, reference.revision, need=need, allow_pickle=True
    )
    if found is None:
        part = cache.find_commit(folder, reference.name, reference.revision)
        what = "is only partly" if part else "is not"
        raise ModelNotFound(
            f"{quoted(name)} {what} on this machine.", f"llmcli models pull {name} fetches it."
        )
    return ResolvedModel(reference.name, "hub", found.folder, found.commit)


def known_names() -> list[str]:
    """The names that cost no download: bundled models, then those in the cache."""
    return [*bundled_models(), *cache.cached_names(cache.cache_folder())]


@dataclass(frozen=True, kw_only=True)
class _Wishes:
    """How `resolve` was asked."""

    need: Need
    offline: bool
    refresh: bool
    timeout: float
    first_byte: float | None = None
    allow_pickle: bool
    trust_remote_code: bool
    notify: Notify
    progress: Progress | None


def _resolve_local(reference: ModelReference, notify: Notify) -> ResolvedModel | None:
    """An existing folder, or a bundled model; a revision belongs to the Hub alone."""
    folder = reference.folder
    if folder.is_file() and reference.revision is None:
        return ResolvedModel(reference.name, "folder", _folder_of(folder))
    if folder.is_dir() and (reference.is_path or reference.revision is None):
        if reference.revision is not None:
            raise InvalidInput(f"{quoted(reference.name)} is a folder and has no revisions.")
        if reference.is_hub_id and cache.find_commit(cache.cache_folder(), reference.name, None):
            notify(
                f"{quoted(reference.name)} is a folder here and also a cached Hub model: the "
                f"folder is used. For the other, write {reference.name}@main."
            )
        elif reference.name in bundled_models():
            notify(
                f"{quoted(reference.name)} is a folder here and also a bundled model: the folder "
                "is used. For the other, call llmcli from elsewhere."
            )
        return ResolvedModel(reference.name, "folder", folder)
    bundled = bundled_models().get(reference.name)
    if bundled is None:
        return None
    if reference.revision is not None:
        raise InvalidInput(f"{reference.name} is bundled with llmcli and has no revisions.")
    return ResolvedModel(reference.name, "bundled", bundled)


def _folder_of(file: Path) -> Path:
    """The folder of a file that stands for its model.

    Raises:
        InvalidInput: It is no file of a model's, or not the one that would be loaded.
    """
    folder = file.parent
    own = {path.name for path in cache.weight_files(folder, allow_pickle=True)}
    if file.name not in own | {"config.json", "tokenizer.json", "adapter_config.json"}:
        raise InvalidInput(
            f"{quoted(str(file))} is a file that no model's folder is loaded from.",
            "Give the folder that holds config.json and model.safetensors.",
        )
    return folder


def _resolve_hub(reference: ModelReference, wishes: _Wishes) -> ResolvedModel:
    """The cache; where that does not do, the network."""
    folder = cache.cache_folder()
    name, revision = reference.name, reference.revision
    found = cache.find_cached(
        folder, name, revision, need=wishes.need, allow_pickle=wishes.allow_pickle
    )
    if found is not None and wishes.trust_remote_code and cache.lacks_code(found.folder):
        found = None
    switch = _offline_switch(wishes.offline)
    if found is None and switch is not None:
        raise _offline_miss(reference, cache.find_commit(folder, name, revision), wishes, switch)
    if switch is not None and wishes.refresh:
        raise InvalidInput(f"--refresh needs the network, and {switch} shuts it off.")
    if found is None or wishes.refresh:
        # Only here, so that a model in the cache costs no import of anything that can connect.
        from llmcli.hub.download import download

        found = download(
            reference,
            need=wishes.need,
            timeout=wishes.timeout,
            first_byte=wishes.first_byte,
            allow_pickle=wishes.allow_pickle,
            trust_remote_code=wishes.trust_remote_code,
            thorough=wishes.refresh,
            notify=wishes.notify,
            progress=wishes.progress,
        )
    return ResolvedModel(name, "hub", found.folder, found.commit)


def _resolve_default(revision: str | None, wishes: _Wishes) -> ResolvedModel:
    """gpt2, or a bundled model where gpt2 is not here and cannot be had soon.

    A folder that happens to be called gpt2 is not meant by somebody who named no model.
    """
    reference = parse_reference(DEFAULT_MODEL, revision)
    try:
        return _resolve_hub(
            reference, replace(wishes, first_byte=min(wishes.timeout, _FALLBACK_SECONDS))
        )
    except (HubUnreachable, OfflineMiss, ModelNotFound, AccessDenied) as error:
        bundled = bundled_models()
        if revision is not None or wishes.refresh or not bundled:
            raise
        name, folder = next(iter(bundled.items()))
        wishes.notify(
            f"gpt2 is not on this machine, and cannot be fetched now ({error.message[:-1]}): "
            f"the bundled model {name} is used. -m {name} chooses it without this warning."
        )
        return ResolvedModel(name, "bundled", folder)


def _offline_switch(offline: bool) -> str | None:
    """What switched the network off; None where it is on."""
    if offline:
        return "--offline"
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE"):
            return f"{variable}={os.environ[variable]}"
    return None


def _offline_miss(
    reference: ModelReference, commit: CachedModel | None, wishes: _Wishes, switch: str
) -> OfflineMiss | UnsafeModel:
    """Say what is missing while the network is off."""
    where = quoted(str(cache.cache_folder()))
    cure = f"Run it once without {switch.partition('=')[0]}, or choose a model that is here."
    name = quoted(reference.name)
    if commit is None:
        revision = f" at revision {quoted(reference.revision)}" if reference.revision else ""
        return OfflineMiss(
            f"{name}{revision} is not in the cache {where}, and {switch} is set.", cure
        )
    folder, need = commit.folder, wishes.need
    missing = cache.missing_files(folder, need=need, allow_pickle=wishes.allow_pickle)
    if missing and not cache.missing_files(folder, need=need, allow_pickle=True):
        return UnsafeModel(
            f"{name} is in the cache with pickled weights only, which can run code.",
            "Choose a model with safetensors, or give --allow-pickle if you trust its owner.",
        )
    missing = missing or ["its Python code"]
    return OfflineMiss(
        f"{name} is in the cache {where} without {', '.join(missing[:5])}, and {switch} is set.",
        cure,
    )


def _sha256(path: Path) -> str:
    """A file's hash; a large one's is kept, by all that tells one state of a file from another."""
    import hashlib  # loads OpenSSL, which completion and --help do without

    stat = path.stat()
    state = [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    key = hashlib.sha256(repr([str(path.resolve()), *state]).encode()).hexdigest()
    parent = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    kept = Path(os.path.expanduser(parent)) / "llmcli" / "digests" / key[:32]
    if stat.st_size >= _LARGE:
        with suppress(OSError, UnicodeDecodeError):
            digest = kept.read_text("ascii")
            if re.fullmatch(r"[0-9a-f]{64}", digest):
                return digest
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if stat.st_size >= _LARGE:
        with suppress(OSError):  # a cache that cannot be written is no reason to fail
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(digest, "ascii")
    return digest

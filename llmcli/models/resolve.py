"""From what was typed to a folder with files: a folder, a bundled model, the cache, the Hub."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from llmcli.errors import CorruptModel, InvalidInput, OfflineMiss
from llmcli.models import cache
from llmcli.models.cache import CachedModel, Need
from llmcli.models.reference import (
    DEFAULT_MODEL,
    ModelReference,
    bundled_models,
    parse_reference,
    quoted,
)

Notify = Callable[[str], None]

_FALLBACK_SECONDS = 3.0


@dataclass(frozen=True)
class ResolvedModel:
    """A model whose files are on this machine.

    Attributes:
        name: What was typed, without the revision.
        origin: Where it came from.
        folder: The folder that holds config.json, the tokenizer and the weights.
        commit: The Hub's commit; None for a folder and for a bundled model.
    """

    name: str
    origin: Literal["folder", "bundled", "hub"]
    folder: Path
    commit: str | None = None

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
        return hashlib.sha256("".join(digests).encode("ascii")).hexdigest()


def resolve(
    name: str | None = None,
    *,
    revision: str | None = None,
    offline: bool = False,
    refresh: bool = False,
    timeout: float = 10.0,
    allow_pickle: bool = False,
    need: Need = "model",
    notify: Notify = lambda message: None,
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
        need: ``"tokenizer"`` fetches only what encoding and decoding use.
        notify: Called with one sentence about what the user ought to know.

    Raises:
        InvalidInput: The name or the revision can be no such thing.
        ModelNotFound: Nothing has that name.
        OfflineMiss: It is not in the cache and the network is off.
        HubUnreachable: The Hub refuses, is silent, too slow or broken.
    """
    if name is None:
        return _resolve_default(
            revision=revision,
            offline=offline,
            refresh=refresh,
            timeout=timeout,
            allow_pickle=allow_pickle,
            need=need,
            notify=notify,
        )
    reference = parse_reference(name, revision)
    local = _resolve_local(reference, notify)
    if local is not None:
        return local
    reference.require_hub_id()
    found = _from_cache(reference, need=need, allow_pickle=allow_pickle)
    if found is not None and not refresh:
        return _hub(reference, found)
    raise OfflineMiss(f"{quoted(name)} is not in the cache.")


def _resolve_local(reference: ModelReference, notify: Notify) -> ResolvedModel | None:
    """An existing folder, or a bundled model; a revision belongs to the Hub alone."""
    folder = reference.folder
    if folder.is_dir() and (reference.is_path or reference.revision is None):
        if reference.revision is not None:
            raise InvalidInput(f"{quoted(reference.name)} is a folder and has no revisions.")
        if reference.is_hub_id and cache.find_commit(cache.cache_folder(), reference.name, None):
            notify(
                f"{quoted(reference.name)} is a folder here and also a cached Hub model: the "
                f"folder is used. For the other, write {reference.name}@main."
            )
        return ResolvedModel(reference.name, "folder", folder)
    bundled = bundled_models().get(reference.name)
    if bundled is None:
        return None
    if reference.revision is not None:
        raise InvalidInput(f"{reference.name} is bundled with llmcli and has no revisions.")
    return ResolvedModel(reference.name, "bundled", bundled)


def _from_cache(reference: ModelReference, *, need: Need, allow_pickle: bool) -> CachedModel | None:
    return cache.find_cached(
        cache.cache_folder(),
        reference.name,
        reference.revision,
        need=need,
        allow_pickle=allow_pickle,
    )


def _hub(reference: ModelReference, cached: CachedModel) -> ResolvedModel:
    return ResolvedModel(reference.name, "hub", cached.folder, cached.commit)


def _resolve_default(
    *,
    revision: str | None,
    offline: bool,
    refresh: bool,
    timeout: float,
    allow_pickle: bool,
    need: Need,
    notify: Notify,
) -> ResolvedModel:
    """gpt2, or the bundled model where gpt2 cannot be had soon."""
    reference = ModelReference(DEFAULT_MODEL, revision)
    found = _from_cache(reference, need=need, allow_pickle=allow_pickle)
    if found is not None and not refresh:
        return _hub(reference, found)
    for bundled, folder in bundled_models().items():
        notify(f"gpt2 is not on this machine: the bundled model {bundled} is used.")
        return ResolvedModel(bundled, "bundled", folder)
    raise OfflineMiss("gpt2 is not in the cache.")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

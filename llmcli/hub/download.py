"""The network: which files of a repository are needed, and getting each of them once, whole.

huggingface_hub's own download is not used for this: it starts a broken transfer from the first
byte, waits as long as a server asks it to, and believes a body that has the right length. Its
cache layout, its locks, its tokens and its addresses are used, so that both share one cache.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from llmcli.errors import (
    AccessDenied,
    CorruptModel,
    StorageError,
    UnsafeModel,
    UnsupportedModel,
)
from llmcli.hub import cache
from llmcli.hub.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from llmcli.hub.blobs import PartialFile, Store, blob_is_intact, storage_errors
from llmcli.hub.cache import CachedModel, Need
from llmcli.hub.client import TRY_LATER, HubClient, Interrupted
from llmcli.hub.deadline import Reporter, supervise
from llmcli.hub.endpoint import Endpoint, read_endpoint
from llmcli.hub.listing import RemoteFile, Repository
from llmcli.hub.reference import ModelReference, quoted
from llmcli.io.model_files import has_tokenizer, tokenizer_files
from llmcli.reporting import Notify, Progress, silent

T = TypeVar("T")

_MODEL_EXTRAS = ("generation_config.json", "README.md")
_TRIES = 4
_LONGEST_PAUSE = 5.0


def download(
    reference: ModelReference,
    *,
    need: Need,
    timeout: float,
    first_byte: float | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    thorough: bool = False,
    notify: Notify = silent,
    progress: Progress | None = None,
) -> CachedModel:
    """Bring what is needed of a Hub repository into the cache.

    Args:
        reference: A Hub id and perhaps a revision, checked.
        need: ``"tokenizer"`` or ``"model"``.
        timeout: The longest silence in seconds.
        first_byte: Seconds to the first byte of a file; None is ``timeout``.
        allow_pickle: Whether pickled weights will do where there are no others.
        trust_remote_code: Whether to fetch the repository's Python files, too.
        thorough: Hash the files that are in the cache already.
        notify: Called with a sentence for the user.
        progress: Called with a file's name, the bytes there, and its size if known.

    Raises:
        ModelNotFound, RevisionNotFound, AccessDenied, HubUnreachable: As they say.
        CorruptModel: What came is not what the Hub says it is; it was deleted.
        UnsafeModel: Only pickled weights exist.
        UnsupportedModel: Files are missing without which it is no language model.
        StorageError: The cache cannot be written, or the disk is full.
    """

    def work(reporter: Reporter) -> CachedModel:
        task = _Task(reference, need, allow_pickle, trust_remote_code, thorough, reporter)
        with HubClient(_endpoint(), timeout=timeout) as client:
            return task.run(client)

    return supervise(
        work,
        timeout=timeout,
        first_byte=timeout if first_byte is None else first_byte,
        where=f"The Hub ({read_endpoint(None).url})",
        progress=progress,
        notify=notify,
    )


def _endpoint() -> Endpoint:
    """The endpoint with the user's token; a short-lived one is fetched over the network."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import OIDCError

    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in ("1", "ON", "YES", "TRUE"):
        return read_endpoint(None)
    try:
        token = get_token()
    except OSError as error:
        raise StorageError(
            f"Cannot read the Hub token in {quoted(str(error.filename))}: {error.strerror}.",
            "Correct HF_HOME (or HF_TOKEN_PATH), or that file's permissions.",
        ) from error
    except OIDCError:
        # What it says may hold what it sent.
        raise AccessDenied(
            "The short-lived Hub token that HF_OIDC_RESOURCE asks for cannot be had.",
            "Unset HF_OIDC_RESOURCE, or correct the trusted publisher's settings.",
        ) from None
    return read_endpoint(token)


class _Task:
    """One download, in the thread of its own that `supervise` gives it."""

    def __init__(
        self,
        reference: ModelReference,
        need: Need,
        allow_pickle: bool,
        trust_remote_code: bool,
        thorough: bool,
        reporter: Reporter,
    ) -> None:
        self.reference = reference
        self.need = need
        self.allow_pickle = allow_pickle
        self.trust_remote_code = trust_remote_code
        self.thorough = thorough
        self.reporter = reporter
        self.store = Store(cache.cache_folder(), reference.name)

    def run(self, client: HubClient) -> CachedModel:
        """Ask, plan, fetch; the reference is written when everything is there."""
        name, revision = self.reference.name, self.reference.revision
        repository = _patiently(lambda: client.repository(name, revision), self.reporter)
        names = list(
            plan(
                repository,
                need=self.need,
                allow_pickle=self.allow_pickle,
                trust_remote_code=self.trust_remote_code,
            )
        )
        with storage_errors(self.store.cache):
            self.store.prepare()
        for file in names:
            self.fetch(client, repository, repository.files[file])
        folder = self.store.folder / "snapshots" / repository.commit
        for shard in self._shards(repository, folder, names):
            self.fetch(client, repository, repository.files[shard])
        with storage_errors(self.store.cache):
            self.store.write_reference(revision or "main", repository.commit)
        return CachedModel(folder, repository.commit)

    def _shards(self, repository: Repository, folder: Path, names: list[str]) -> Iterator[str]:
        """The weights that an index among the files names."""
        for index in (cache.SAFETENSORS_INDEX, cache.PICKLE_INDEX):
            if index not in names:
                continue
            shards = cache.index_shards(folder / index)
            missing = [shard for shard in shards if shard not in repository.files]
            if missing or not shards:
                what = f"names {quoted(missing[0])}, which is not there" if missing else "is empty"
                raise CorruptModel(
                    f"{index} of {quoted(repository.name)} {what}.",
                    "Tell the model's owner, or choose another --revision.",
                )
            yield from shards

    def fetch(self, client: HubClient, repository: Repository, file: RemoteFile) -> None:
        """Have one file in the cache, proven, and linked from the snapshot."""
        file = _patiently(lambda: client.describe(repository, file), self.reporter)
        blob = self.store.blob(file)
        with storage_errors(self.store.cache), self.store.lock(file, self.reporter):
            self.reporter.pause()
            there = blob_is_intact(blob, file, thorough=self.thorough, reporter=self.reporter)
            self.reporter.resume()
            if not there:
                blob.unlink(missing_ok=True)
                with PartialFile(self.store.partial(file), file) as partial:
                    self._gather(client, repository, partial)
                    partial.commit(blob)
            self.store.link(repository.commit, file)
        self.reporter.complete()

    def _gather(self, client: HubClient, repository: Repository, partial: PartialFile) -> None:
        """Fill a partial file; a rest of an earlier run that proves bad is fetched anew."""
        self.reporter.pause()
        partial.take_stock(self.reporter)
        self.store.require_space(partial.file, partial.size)
        self.reporter.resume()
        resumed = partial.size > 0
        try:
            self._receive(client, repository, partial)
            if not partial.is_intact() and resumed:
                partial.restart()
                self._receive(client, repository, partial)
            if not partial.is_intact():
                raise CorruptModel(
                    f"{partial.file.name} of {quoted(repository.name)} arrived damaged: its hash "
                    "is not the one that the Hub states. It was deleted.",
                    "Run the command again.",
                )
        except CorruptModel:
            partial.path.unlink(missing_ok=True)
            raise

    def _receive(self, client: HubClient, repository: Repository, partial: PartialFile) -> None:
        """Take in a body; a broken connection is resumed where it broke."""

        def once() -> None:
            if not partial.is_complete():
                self._take_body(client, repository, partial)

        _patiently(once, self.reporter, moved=lambda: partial.size)

    def _take_body(self, client: HubClient, repository: Repository, partial: PartialFile) -> None:
        file = partial.file
        with client.body(repository, file, partial.size) as body:
            if body.start != partial.size:
                partial.restart()
            if body.start is None:
                raise Interrupted(f"{file.name} is shorter than the Hub says it is.", TRY_LATER)
            if body.start not in (0, partial.size):
                raise Interrupted(
                    f"The Hub sends another part of {file.name} than was asked for.", TRY_LATER
                )
            for data in body.chunks:
                partial.append(data)
                self.reporter.received(file.name, len(data), partial.size, file.size)
        if file.size is not None and partial.size < file.size:
            raise Interrupted(
                f"Only {partial.size:,} of the {file.size:,} bytes of {file.name} came.",
                "Run the command again: it goes on from there.",
            )


def plan(
    repository: Repository, *, need: Need, allow_pickle: bool, trust_remote_code: bool = False
) -> Iterator[str]:
    """Name the files to fetch; the shards that an index names come later.

    Raises:
        UnsafeModel: Only pickled weights exist, and they were not allowed.
        UnsupportedModel: No configuration, no tokenizer or no weights exist.
    """
    files = repository.files
    if "config.json" in files:
        yield "config.json"  # it tells a tokenizer's class, too, where nothing else does
    elif ADAPTER_CONFIG in files:
        yield from _plan_adapter(repository)
        return
    elif need == "model":
        raise UnsupportedModel(
            f"{quoted(repository.name)} has no config.json: it is no transformers model.",
            "Choose a model that transformers can load.",
        )
    yield from _plan_tokenizer(repository)
    if need == "model":
        yield from (name for name in _MODEL_EXTRAS if name in files)
        if trust_remote_code:
            yield from sorted(name for name in files if name.endswith(".py"))
        yield _plan_weights(repository.name, files, allow_pickle=allow_pickle)


def _plan_adapter(repository: Repository) -> Iterator[str]:
    """An adapter's own files; those of its base model are another download."""
    if ADAPTER_WEIGHTS not in repository.files:
        raise UnsupportedModel(
            f"{quoted(repository.name)} holds an adapter without {ADAPTER_WEIGHTS}.",
            "Choose one that was saved with safetensors.",
        )
    yield from (ADAPTER_CONFIG, ADAPTER_WEIGHTS, *tokenizer_files(frozenset(repository.files)))


def _plan_tokenizer(repository: Repository) -> Iterator[str]:
    files = repository.files
    names = frozenset(files)
    if not has_tokenizer(names):
        raise UnsupportedModel(
            f"{quoted(repository.name)} has no tokenizer.json and no vocab.json with merges.txt.",
            "Choose a model with one of them.",
        )
    yield from tokenizer_files(names)


def _plan_weights(name: str, files: Mapping[str, RemoteFile], *, allow_pickle: bool) -> str:
    for choice in (cache.SAFETENSORS, cache.SAFETENSORS_INDEX):
        if choice in files:
            return choice
    pickles = [choice for choice in (cache.PICKLE, cache.PICKLE_INDEX) if choice in files]
    if pickles and allow_pickle:
        return pickles[0]
    if pickles:
        raise UnsafeModel(
            f"{quoted(name)} has its weights in pickle files only, which can run code.",
            "Choose a model with safetensors, or give --allow-pickle if you trust its owner.",
        )
    raise UnsupportedModel(
        f"{quoted(name)} has no weights in the safetensors format.",
        "Choose a model with a model.safetensors file.",
    )


def _patiently(
    action: Callable[[], T], reporter: Reporter, *, moved: Callable[[], int] = lambda: 0
) -> T:
    """Try again where that may help: a few times without progress, with growing pauses.

    A server that asks for a long pause does not get it: its error is raised at once.
    """
    tries, before = 0, moved()
    while True:
        try:
            return action()
        except Interrupted as error:
            if moved() > before:
                tries, before = 0, moved()
            tries += 1
            pause = error.retry_after if error.retry_after is not None else 0.25 * 2**tries
            if tries == _TRIES or pause > _LONGEST_PAUSE:
                raise
            reporter.wait(pause)

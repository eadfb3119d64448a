"""A repository as the Hub describes it: one commit, its files, their sizes and hashes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmcli.errors import CorruptModel, HubUnreachable
from llmcli.hub.cache import is_plain_name
from llmcli.hub.reference import is_commit, quoted

_ETAG = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository, as the Hub describes it.

    Attributes:
        name: A plain file name.
        blob: The name of its content in the cache; None where the listing does not say.
        size: In bytes; None where the Hub does not say.
        sha256: Of the content; None for small files.
        git_sha1: Git's hash of the content; None for large files.
    """

    name: str
    blob: str | None = None
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None


@dataclass(frozen=True)
class Repository:
    """One commit of a repository and the files at its top.

    Attributes:
        name: The Hub id.
        commit: 40 hexadecimal digits.
        files: By name.
    """

    name: str
    commit: str
    files: Mapping[str, RemoteFile]


def read_listing(name: str, body: bytes, *, address: str) -> Repository:
    """Read what ``/api/models/NAME/revision/REVISION?blobs=true`` answers.

    Args:
        name: The Hub id that was asked for.
        body: JSON, supposedly.
        address: Of the Hub, for messages.

    Raises:
        HubUnreachable: It is no JSON: something else than a Hub answers there.
        CorruptModel: It names no commit or no files.
    """
    try:
        listing = json.loads(body)
    except (ValueError, RecursionError):
        raise HubUnreachable(
            f"What answers at {address} is not a Hub: no JSON came.",
            "Check HF_ENDPOINT, and whether the network wants a login.",
        ) from None
    commit = listing.get("sha") if isinstance(listing, dict) else None
    siblings = listing.get("siblings") if isinstance(listing, dict) else None
    if not isinstance(commit, str) or not is_commit(commit) or not isinstance(siblings, list):
        raise CorruptModel(
            f"The Hub's description of {quoted(name)} names no commit or no files.",
            "Check HF_ENDPOINT: what answers there may not be a Hub.",
        )
    files = [_read_sibling(item) for item in siblings if isinstance(item, dict)]
    return Repository(name, commit, {file.name: file for file in files if file is not None})


def _read_sibling(item: Mapping[str, Any]) -> RemoteFile | None:
    """A file of the listing; None where it lies deeper than the top or the name is not plain."""
    name, size, git_sha1 = item.get("rfilename"), item.get("size"), item.get("blobId")
    if not isinstance(name, str) or not is_plain_name(name):
        return None
    large = item.get("lfs")
    sha256 = large.get("sha256") if isinstance(large, dict) else None
    if isinstance(large, dict) and isinstance(large.get("size"), int):
        size = large["size"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        size = None
    if isinstance(sha256, str) and _SHA256.fullmatch(sha256):
        return RemoteFile(name, blob=sha256, size=size, sha256=sha256)
    known = large is None and size is not None
    if known and isinstance(git_sha1, str) and _SHA1.fullmatch(git_sha1):
        return RemoteFile(name, blob=git_sha1, size=size, git_sha1=git_sha1)
    return RemoteFile(name, size=size)


def describe_by_headers(
    repository: Repository, file: RemoteFile, headers: Mapping[str, str]
) -> RemoteFile:
    """Complete a file's description by the headers that its address answers.

    Raises:
        CorruptModel: The ETag could lead out of the cache, or the commit is another one.
    """
    etag = headers.get("X-Linked-Etag") or headers.get("ETag") or ""
    etag = etag.removeprefix("W/").strip('"')
    commit = headers.get("X-Repo-Commit", repository.commit)
    if not _ETAG.fullmatch(etag) or commit != repository.commit:
        raise CorruptModel(
            f"The Hub describes {quoted(file.name)} of {quoted(repository.name)} with an ETag or "
            "a commit that cannot be right.",
            "Check HF_ENDPOINT: what answers there may not be a Hub.",
        )
    length = headers.get("X-Linked-Size") or (
        "" if "Location" in headers else headers.get("Content-Length", "")
    )
    size = int(length) if length.isascii() and length.isdigit() and len(length) < 19 else file.size
    return RemoteFile(
        file.name, blob=etag, size=size, sha256=etag if _SHA256.fullmatch(etag) else None
    )

"""A Hub on loopback: the real protocol over real HTTP, with misbehaviour on demand.

It speaks what huggingface_hub speaks (a test downloads through that library, too): model info
with and without a revision, the tree, ``resolve`` with ETag, X-Repo-Commit, X-Linked-Size and
X-Linked-Etag, large files behind a redirect to another origin, Range, the 307 of renamed
repositories, X-Error-Code. What a client did is in ``hub.requests``.

    hub.add("org/name", folder)
    hub.misbehave(r"model\\.safetensors", Cut(at=1000), times=1)
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 4096  # bytes from which on a file is stored as git-lfs does


@dataclass(frozen=True)
class Silence:
    """Accept, read the request, never answer."""


@dataclass(frozen=True)
class Trickle:
    """Send the answer in small pieces with pauses: the headers too, if asked to."""

    size: int = 1
    seconds: float = 0.05
    headers: bool = False


@dataclass(frozen=True)
class Cut:
    """Announce the whole body, close the connection after ``at`` bytes of it."""

    at: int


@dataclass(frozen=True)
class Corrupt:
    """Flip one bit; the length stays."""


@dataclass(frozen=True)
class Status:
    """Answer with a status."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Length:
    """Send a body that is longer or shorter by ``change`` bytes, with a matching header."""

    change: int


@dataclass(frozen=True)
class Headers:
    """Answer properly, with some headers replaced."""

    headers: Mapping[str, str]


@dataclass(frozen=True)
class IgnoreRange:
    """Answer 200 with everything, whatever part was asked for."""


@dataclass(frozen=True)
class Hold:
    """Send ``after`` bytes of the body, tell the test, wait until it lets go, send the rest."""

    after: int
    reached: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)


Action = Silence | Trickle | Cut | Corrupt | Status | Length | Headers | IgnoreRange | Hold


@dataclass
class _Rule:
    pattern: re.Pattern[str]
    action: Action
    method: str
    times: int | None


@dataclass(frozen=True)
class Request:
    """What a client asked."""

    method: str
    path: str
    host: str
    range: str | None
    authorization: str | None


@dataclass
class Repository:
    """A repository of one commit, under as many names of revisions as one likes."""

    name: str
    commit: str
    files: dict[str, bytes]
    revisions: set[str]
    gated: bool = False
    private: bool = False


class FakeHub:
    """The server, in threads of its own; a context manager."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.renamed: dict[str, str] = {}
        self.requests: list[Request] = []
        self.hashes_in_listing = True
        self.token = "hf_theRightToken"
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"
        # The same server by another name: another origin, as the store of large files is.
        self.storage = f"http://localhost:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.close_connections()
        self._server.server_close()

    def add(
        self,
        name: str,
        files: Path | Mapping[str, bytes],
        *,
        gated: bool = False,
        private: bool = False,
        revisions: tuple[str, ...] = ("main",),
    ) -> Repository:
        """Put a repository there: a folder's files, or bytes by name."""
        if isinstance(files, Path):
            files = {path.name: path.read_bytes() for path in files.iterdir() if path.is_file()}
        content = dict(files)
        digest = hashlib.sha1(name.encode())
        for key in sorted(content):
            digest.update(key.encode() + hashlib.sha256(content[key]).digest())
        commit = digest.hexdigest()
        repository = Repository(name, commit, content, {commit, *revisions}, gated, private)
        self.repositories[name] = repository
        return repository

    def misbehave(
        self, pattern: str, action: Action, *, method: str = "GET", times: int | None = None
    ) -> None:
        """Do ``action`` when a path matches, the next ``times`` times (always, if None)."""
        self._rules.append(_Rule(re.compile(pattern), action, method, times))

    def behave(self) -> None:
        """Forget all misbehaviour and all requests."""
        self._rules.clear()
        self.requests.clear()

    def asked_for(self, pattern: str, method: str = "GET") -> list[Request]:
        """The requests whose path matches."""
        return [r for r in self.requests if r.method == method and re.search(pattern, r.path)]

    def take_action(self, method: str, path: str) -> Action | None:
        """The misbehaviour that is due for a request."""
        with self._lock:
            for rule in self._rules:
                if rule.times != 0 and rule.method == method and rule.pattern.search(path):
                    if rule.times is not None:
                        rule.times -= 1
                    return rule.action
        return None


class _Server(ThreadingHTTPServer):
    hub: FakeHub
    daemon_threads = True
    # Clients that were killed leave connections behind that would be waited for.
    block_on_close = False

    def __init__(self, *args: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        for connection in list(self._open):
            self.shutdown_request(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may go away in the middle: that is what is being tested."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        hub = self.server.hub
        hub.requests.append(
            Request(
                self.command,
                self.path,
                self.headers.get("Host", ""),
                self.headers.get("Range"),
                self.headers.get("Authorization"),
            )
        )
        action = hub.take_action(self.command, self.path)
        if isinstance(action, Silence):
            hub.closing.wait()
            self.close_connection = True
            return
        if isinstance(action, Status):
            self._answer(action.code, dict(action.headers), action.body, None)
            return
        code, headers, body = self._route()
        if isinstance(action, Corrupt):
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        elif isinstance(action, Length):
            body = body[: action.change] if action.change < 0 else body + b"x" * action.change
        self._answer(code, headers, body, action)

    # -- what a Hub would say ------------------------------------------------------------

    def _route(self) -> tuple[int, dict[str, str], bytes]:
        hub = self.server.hub
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        if match := re.fullmatch(r"/storage/([0-9a-f]{64})", path):
            return self._stored(match[1])
        for pattern, serve in (
            (r"/api/models/(.+?)/revision/(.+)", self._info),
            (r"/api/models/(.+?)/tree/([^/]+)(?:/.*)?", self._tree),
            (r"/api/models/(.+)", self._info),
            (r"/(.+?)/resolve/([^/]+)/(.+)", self._resolve),
        ):
            match = re.fullmatch(pattern, path)
            if match is None:
                continue
            name, *rest = match.groups()
            if name in hub.renamed:
                # The query stays; the name does not.
                target = self.path.replace(f"/{name}/", f"/{hub.renamed[name]}/", 1)
                return 307, {"Location": target}, b""
            repository = hub.repositories.get(name)
            if (refusal := self._refusal(repository)) is not None or repository is None:
                return refusal or (404, {}, b"")
            if rest and rest[0] not in repository.revisions:
                return 404, {"X-Error-Code": "RevisionNotFound"}, b""
            return serve(repository, *rest)
        return 404, {}, b"not here"

    def _refusal(self, repository: Repository | None) -> tuple[int, dict[str, str], bytes] | None:
        """Who may not see a repository; the Hub hides what exists from those without a token."""
        authorization = self.headers.get("Authorization")
        if authorization is not None and authorization != f"Bearer {self.server.hub.token}":
            message = "Invalid credentials in Authorization header"
            return 401, {"X-Error-Message": message}, b""
        if repository is None or (repository.private and authorization is None):
            if authorization is None:
                return 401, {"X-Error-Message": "Invalid username or password."}, b""
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if repository.gated and authorization is None:
            return 401, {"X-Error-Code": "GatedRepo"}, b""
        return None

    def _info(
        self, repository: Repository, revision: str = "main"
    ) -> tuple[int, dict[str, str], bytes]:
        blobs = "blobs=" in self.path and self.server.hub.hashes_in_listing
        siblings = []
        for name, content in sorted(repository.files.items()):
            entry: dict[str, Any] = {"rfilename": name}
            if blobs:
                entry |= {"size": len(content), "blobId": _git_sha1(content)}
                if len(content) >= LARGE:
                    entry["lfs"] = {
                        "sha256": hashlib.sha256(content).hexdigest(),
                        "size": len(content),
                        "pointerSize": 134,
                    }
            siblings.append(entry)
        info = {
            "_id": "0" * 24,
            "id": repository.name,
            "modelId": repository.name,
            "sha": repository.commit,
            "siblings": siblings,
            "tags": ["license:mit"],
        }
        return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()

    def _tree(self, repository: Repository, revision: str) -> tuple[int, dict[str, str], bytes]:
        entries = []
        for name, content in sorted(repository.files.items()):
            entry: dict[str, Any] = {
                "type": "file",
                "path": name,
                "size": len(content),
                "oid": _git_sha1(content),
            }
            if len(content) >= LARGE:
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
            entries.append(entry)
        return 200, {"Content-Type": "application/json"}, json.dumps(entries).encode()

    def _resolve(
        self, repository: Repository, revision: str, name: str
    ) -> tuple[int, dict[str, str], bytes]:
        headers = {"X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
        content = repository.files.get(name)
        if content is None:
            return 404, {**headers, "X-Error-Code": "EntryNotFound"}, b""
        if len(content) < LARGE:
            return 200, {**headers, "ETag": f'"{_git_sha1(content)}"'}, content
        digest = hashlib.sha256(content).hexdigest()
        headers |= {
            "X-Linked-Size": str(len(content)),
            "X-Linked-Etag": f'"{digest}"',
            "ETag": f'"{digest}"',
            "Location": f"{self.server.hub.storage}/storage/{digest}",
        }
        return 302, headers, b""

    def _stored(self, digest: str) -> tuple[int, dict[str, str], bytes]:
        for repository in self.server.hub.repositories.values():
            for content in repository.files.values():
                if hashlib.sha256(content).hexdigest() == digest:
                    # As an object store does: an ETag of its own kind.
                    return 200, {"ETag": '"0123-4"', "Accept-Ranges": "bytes"}, content
        return 404, {}, b""

    # -- how it says it --------------------------------------------------------------------

    def _answer(
        self, code: int, headers: dict[str, str], body: bytes, action: Action | None
    ) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and code == 200 and not isinstance(action, IgnoreRange):
            start, size = int(wanted[1]), len(body)
            if start >= size:
                code, body = 416, b""
                headers["Content-Range"] = f"bytes */{size}"
            else:
                code, body = 206, body[start:]
                headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        headers.setdefault("Content-Length", str(len(body)))
        if isinstance(action, Headers):
            headers.update(action.headers)
        lines = [f"HTTP/1.1 {code} Whatever", *(f"{k}: {v}" for k, v in headers.items())]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        if self.command == "HEAD":
            body = b""
        if isinstance(action, Trickle) and action.headers:
            self._trickle(head, action)
        else:
            self.wfile.write(head)
        if isinstance(action, Trickle):
            self._trickle(body, action)
        elif isinstance(action, Cut):
            self.wfile.write(body[: action.at])
            self.close_connection = True
        elif isinstance(action, Hold):
            self.wfile.write(body[: action.after])
            self.wfile.flush()
            action.reached.set()
            action.release.wait(60)
            self.wfile.write(body[action.after :])
        else:
            self.wfile.write(body)
        self.wfile.flush()

    def _trickle(self, data: bytes, action: Trickle) -> None:
        for begin in range(0, len(data), action.size):
            self.wfile.write(data[begin : begin + action.size])
            self.wfile.flush()
            if self.server.hub.closing.wait(action.seconds):
                return


def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def refusing_port() -> int:
    """A port on loopback where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

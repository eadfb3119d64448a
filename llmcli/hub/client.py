"""What is said to the Hub over HTTP, and what its answers mean.

Nothing here waits longer than its time-outs for one read, but a server that sends a byte now
and then could keep it busy: `supervision` puts one deadline over all of it.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from llmcli.errors import (
    AccessDenied,
    CorruptModel,
    HubUnreachable,
    ModelNotFound,
    RevisionNotFound,
)
from llmcli.hub.endpoint import Endpoint
from llmcli.hub.listing import RemoteFile, Repository, describe_by_headers, read_listing
from llmcli.hub.reference import quoted

if TYPE_CHECKING:
    import httpx2

_LARGEST_LISTING = 32 * 2**20
_MOST_REDIRECTS = 10

TRY_LATER = "Try again, or use a model that is on this machine (llmcli models list)."


class Interrupted(HubUnreachable):
    """Raised where trying again may help: a broken connection, a server that is busy.

    Attributes:
        retry_after: Seconds that the server asks to wait; None where it says nothing.
    """

    retry_after: float | None = None


class HubClient:
    """A connection to the Hub; a context manager.

    Args:
        endpoint: As `read_endpoint` gives it.
        timeout: Seconds for connecting and for each read.
    """

    def __init__(self, endpoint: Endpoint, *, timeout: float) -> None:
        import httpx2

        self.endpoint = endpoint
        with self._errors():
            try:
                self._client = httpx2.Client(
                    headers=dict(endpoint.headers),
                    timeout=httpx2.Timeout(timeout),
                    follow_redirects=True,
                    max_redirects=_MOST_REDIRECTS,
                )
            except (ValueError, ImportError):
                # The original names the proxy's address, with its password.
                raise HubUnreachable(
                    "A proxy variable (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY) holds an address "
                    "that cannot be used.",
                    "Correct or unset it.",
                ) from None

    def __enter__(self) -> HubClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def repository(self, name: str, revision: str | None) -> Repository:
        """Ask which commit a revision is and which files it has.

        Raises:
            ModelNotFound, RevisionNotFound, AccessDenied, HubUnreachable: As they say.
            CorruptModel: The answer is JSON, but describes no repository.
        """
        path = f"/api/models/{name}/revision/{quote(revision or 'main', safe='')}"
        with (
            self._errors(),
            self._client.stream(
                "GET", self.endpoint.url + path, params={"blobs": "true"}
            ) as response,
        ):
            self._check(response, name, revision)
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > _LARGEST_LISTING:
                    raise CorruptModel(f"The Hub's listing of {quoted(name)} has no end.")
        return read_listing(name, bytes(body), address=self.endpoint.url)

    def describe(self, repository: Repository, file: RemoteFile) -> RemoteFile:
        """Ask for a file's hash and size where the listing lacks them (some mirrors' do)."""
        if file.blob is not None:
            return file
        url = self._file_url(repository, file)
        with self._errors():
            response = self._client.head(url, follow_redirects=False)
            for _ in range(_MOST_REDIRECTS):
                # A relative redirect is another name of the repository; an absolute one leads
                # to the store of large files, and the headers that count are on this answer.
                location = response.headers.get("Location", "")
                if not response.is_redirect or not location.startswith("/"):
                    break
                response = self._client.head(response.url.join(location), follow_redirects=False)
        if not response.is_redirect:
            self._check(response, repository.name, repository.commit)
        return describe_by_headers(repository, file, response.headers)

    @contextmanager
    def body(self, repository: Repository, file: RemoteFile, offset: int) -> Iterator[Body]:
        """Open a file's content from ``offset`` on, as far as the server allows that."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        url = self._file_url(repository, file)
        with self._errors(), self._client.stream("GET", url, headers=headers) as response:
            if response.status_code == 416 and offset:
                yield Body(start=None, chunks=iter(()))
                return
            self._check(response, repository.name, repository.commit)
            start = _range_start(response) if response.status_code == 206 else 0
            yield Body(start=start, chunks=response.iter_bytes())

    def _file_url(self, repository: Repository, file: RemoteFile) -> str:
        name = quote(file.name, safe="")
        return f"{self.endpoint.url}/{repository.name}/resolve/{repository.commit}/{name}"

    def _check(self, response: httpx2.Response, name: str, revision: str | None) -> None:
        if not response.is_success:
            raise _refusal(response, name, revision, self.endpoint)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn httpx's errors into ours; no foreign text, which might hold credentials."""
        import httpx2

        try:
            yield
        except httpx2.HTTPError as error:
            raise self._translated(error) from self._presentable(error)
        except (httpx2.InvalidURL, httpx2.StreamError) as error:
            raise HubUnreachable(
                f"{self.endpoint.url} sends an answer that cannot be read.", TRY_LATER
            ) from self._presentable(error)

    def _translated(self, error: httpx2.HTTPError) -> HubUnreachable:
        import httpx2

        url = self.endpoint.url
        if isinstance(error, httpx2.ProxyError):
            return HubUnreachable(
                f"The proxy on the way to {url} fails.", "Check HTTPS_PROXY and HTTP_PROXY."
            )
        if isinstance(error, httpx2.ConnectError):
            return _no_connection(error, url)
        if isinstance(error, httpx2.TimeoutException):
            return HubUnreachable(f"{url} does not answer in time.", "Give it more with --timeout.")
        if isinstance(error, httpx2.NetworkError | httpx2.RemoteProtocolError):
            return Interrupted(f"The connection to {url} broke off.", TRY_LATER)
        return HubUnreachable(f"{url} sends an answer that cannot be read.", TRY_LATER)

    def _presentable(self, error: Exception) -> Exception | None:
        """The cause to keep for a traceback, unless a secret stands in its text."""
        text = f"{error!r} {error.__cause__!r} {error.__context__!r}"
        return None if any(secret in text for secret in self.endpoint.secrets) else error


@dataclass(frozen=True)
class Body:
    """A file's content on its way.

    Attributes:
        start: The offset of the first byte; None where nothing lies after the one asked for.
        chunks: The bytes.
    """

    start: int | None
    chunks: Iterator[bytes]


def _no_connection(error: Exception, url: str) -> HubUnreachable:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return HubUnreachable(
                f"The name of {url} cannot be resolved.", f"Check the network. {TRY_LATER}"
            )
        if isinstance(cause, ssl.SSLError):
            return HubUnreachable(
                f"The certificate of {url} cannot be verified.",
                "Check the clock, the proxy and SSL_CERT_FILE.",
            )
        cause = cause.__cause__ or cause.__context__
    return HubUnreachable(
        f"{url} cannot be reached: the connection is refused.", f"Check the network. {TRY_LATER}"
    )


def _refusal(
    response: httpx2.Response, name: str, revision: str | None, endpoint: Endpoint
) -> Exception:
    """What a status other than 2xx means; the server's own words are never repeated."""
    status = response.status_code
    code = response.headers.get("X-Error-Code", "")
    model = quoted(name)
    if code == "GatedRepo":
        return AccessDenied(
            f"{model} is gated.",
            f"Accept its conditions at {endpoint.url}/{name}, then set HF_TOKEN.",
        )
    if code == "RevisionNotFound":
        return RevisionNotFound(
            f"{model} has no revision {quoted(revision or 'main')}.",
            f"See {endpoint.url}/{name}/tree/main for those it has.",
        )
    if status == 401 and endpoint.has_token and code != "RepoNotFound":
        return AccessDenied(
            f"The Hub rejects the token that was sent for {model} (401).",
            "Set HF_TOKEN to a valid one, or unset it for public models.",
        )
    if status == 401 or code == "RepoNotFound" or (status == 404 and code != "EntryNotFound"):
        # The Hub answers 401 for what does not exist, too, so as not to give away what does.
        return ModelNotFound(
            f"There is no model {model} on the Hub that you may see ({status}).",
            "Check the name; for a private model, set HF_TOKEN.",
        )
    if status == 403:
        return AccessDenied(
            f"The Hub refuses access to {model} (403).", "Set HF_TOKEN to a token that may read it."
        )
    if status == 404:
        return CorruptModel(f"A file that the Hub lists for {model} is not there (404).", TRY_LATER)
    if status == 429:
        return _busy(response, f"{endpoint.url} wants fewer requests (429)")
    if status >= 500 or status == 408:
        return _busy(response, f"{endpoint.url} fails ({status})")
    return HubUnreachable(f"{endpoint.url} answers with status {status}.", TRY_LATER)


def _busy(response: httpx2.Response, message: str) -> Interrupted:
    try:
        wait = max(0.0, float(response.headers.get("Retry-After", "")))
    except ValueError:
        wait = None
    if wait is not None and wait < 1e6:
        cure = f"Try again in {wait:.0f} seconds, or set HF_TOKEN for a higher limit."
    else:
        cure = TRY_LATER
    error = Interrupted(f"{message}.", cure)
    error.retry_after = wait
    return error


def _range_start(response: httpx2.Response) -> int:
    match = re.match(r"bytes (\d{1,18})-", response.headers.get("Content-Range", ""))
    if match is None:
        raise HubUnreachable("The Hub answers with a part of a file and does not say which.")
    return int(match.group(1))

"""What every request passes: who asks and from where, how much is sent, what is noted of it."""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.datastructures import Headers, MutableHeaders

from llmcli.serve.errors import ApiError, shutting_down
from llmcli.serve.openapi import POSTS

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = frozenset({"/health", "/livez", "/readyz"})
"""Routes that need no key."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is let in.

    Attributes:
        keys: Any of them opens; none at all lets everybody in.
        origins: Web pages of these origins may call.
        hosts: The names that a request may call this server by; None for any.
        max_body: Bytes of a request's body.
    """

    keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    hosts: frozenset[str] | None = None
    max_body: int = 8 << 20


def loopback_hosts(host: str) -> frozenset[str] | None:
    """What a server on a loopback address is called by; None for another address.

    A page of the web whose name an attacker points here calls it by that name, and is refused.
    """
    return frozenset(_LOOPBACK) if host in _LOOPBACK else None


@dataclass(slots=True, kw_only=True)
class Record:
    """What is noted of a request; never what it says.

    Attributes:
        method: Of HTTP.
        path: Of the route.
        status: Of the answer; 499 where the client left first.
        seconds: From the first byte to the last.
        details: What the route adds.
    """

    method: str
    path: str
    status: int = 499
    seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "seconds": round(self.seconds, 6),
            **self.details,
        }


class Gate:
    """Wraps the routes.

    Args:
        app: The routes.
        rules: What is let in.
        draining: Whether the server is about to end, and takes nothing new.
        noted: Called with each request's record.
    """

    def __init__(
        self,
        app: ASGIApp,
        rules: Rules,
        *,
        draining: Callable[[], bool],
        noted: Callable[[Record], None],
    ) -> None:
        self._app = app
        self._rules = rules
        self._keys = [sha256(key.encode()).digest() for key in rules.keys]
        self._draining = draining
        self._noted = noted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # no lifespan, no websockets
        record = Record(method=scope["method"], path=scope["path"])
        scope["record"] = record
        begin = time.perf_counter()
        headers = Headers(scope=scope)
        origin = headers.get("origin", "")
        allowed = origin if origin in self._rules.origins else ""
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                record.status = message["status"]
                if allowed:
                    added = MutableHeaders(scope=message)
                    added["access-control-allow-origin"] = allowed
                    added.add_vary_header("origin")
            await send(message)

        try:
            if allowed and scope["method"] == "OPTIONS":
                await _preflight(noting)
                return
            self._check(scope, headers)
            await self._app(scope, self._limited(headers, receive), noting)
        except ApiError as exc:
            if begun:
                raise
            await respond(noting, exc.status, exc.body(), exc.headers)
        finally:
            record.seconds = time.perf_counter() - begin
            self._noted(record)

    def _check(self, scope: Scope, headers: Headers) -> None:
        hosts = self._rules.hosts
        if hosts is not None and _name(headers.get("host", "")) not in hosts:
            raise ApiError(421, "This server is not known by that name.", code="unknown_host")
        if scope["path"] in OPEN:
            return
        if self._keys and not self._opens(headers.get("authorization", "")):
            scheme = 'Basic realm="llmcli"' if scope["path"] == "/" else "Bearer"
            raise ApiError(
                401,
                "The API key is missing or wrong.",
                code="invalid_api_key",
                headers={"www-authenticate": scheme},
            )
        if scope["method"] != "POST":
            return
        if self._draining():
            raise shutting_down()
        if scope["path"] not in POSTS:
            return  # the routes say what is there
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(
                415, "The body must be application/json; say so in Content-Type.", code="not_json"
            )

    def _opens(self, authorization: str) -> bool:
        """Whether one of the keys was given; the time it takes says nothing about them."""
        scheme, _, value = authorization.partition(" ")
        given = value.strip()
        if scheme.lower() == "basic":  # what a browser asks its user for; the key is the password
            try:
                given = base64.b64decode(given, validate=True).decode("utf-8").partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return False
        elif scheme.lower() != "bearer":
            return False
        digest = sha256(given.encode("utf-8", "surrogateescape")).digest()
        # All are compared, so that not even their order shows.
        return sum(hmac.compare_digest(digest, key) for key in self._keys) > 0

    def _limited(self, headers: Headers, receive: Receive) -> Receive:
        """What gives a body up to the limit, however it is sent."""
        limit = self._rules.max_body
        too_long = ApiError(413, f"The body is larger than {limit} bytes.", code="body_too_large")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise too_long
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise too_long
            return message

        return limited


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


async def _preflight(send: Send) -> None:
    allowed = {
        "access-control-allow-methods": "GET, POST",
        "access-control-allow-headers": "authorization, content-type",
        "access-control-max-age": "600",
    }
    await _send(send, 204, b"", allowed)


async def respond(
    send: Send, status: int, content: object, headers: dict[str, str] | None = None
) -> None:
    """Send an answer of JSON."""
    made = {"content-type": "application/json", **(headers or {})}
    await _send(send, status, msgspec.json.encode(content), made)


async def _send(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    named = {**headers, "content-length": str(len(body))}
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})

"""Where the Hub is, what proves who asks, and what of both may be seen."""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from llmcli._version import __version__
from llmcli.errors import AccessDenied, InvalidInput

_PUBLIC_ENDPOINT = "https://huggingface.co"
_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@dataclass(frozen=True)
class Endpoint:
    """Where the Hub is and what proves who asks.

    Attributes:
        url: The address without credentials; what may be printed.
        headers: Sent with every request; hold the token.
        secrets: What must never be printed.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)

    @property
    def has_token(self) -> bool:
        """Whether requests carry a token or a password."""
        return "Authorization" in self.headers


def read_endpoint(token: str | None) -> Endpoint:
    """The Hub's address from HF_ENDPOINT, with the token where it may travel.

    Raises:
        InvalidInput: HF_ENDPOINT is no http or https address.
        AccessDenied: The token would go in clear text over a network, or cannot be one.
    """
    text = os.environ.get("HF_ENDPOINT") or _PUBLIC_ENDPOINT
    parts = _split(text)
    if parts is None or parts.hostname is None:
        raise InvalidInput(
            "HF_ENDPOINT is not an http or https address.",
            "Unset it, or set it to one such as https://huggingface.co.",
        )
    host, port = parts.hostname, parts.port
    shown = f"[{host}]" if ":" in host else host
    where = f"{shown}:{port}" if port else shown
    url = urlunsplit((parts.scheme, where, parts.path.rstrip("/"), "", ""))
    secrets = [token] if token else []
    headers = {"Accept-Encoding": "identity", "User-Agent": f"llmcli/{__version__}"}
    if token is not None:
        _check_token(token, plain=parts.scheme == "http" and not _is_loopback(host))
        headers["Authorization"] = f"Bearer {token}"
    elif parts.password is not None:
        pair = f"{unquote(parts.username or '')}:{unquote(parts.password)}"
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode("ascii")
    for address in (text, *(_proxy(name) for name in _PROXY_VARIABLES)):
        secrets += _credentials(address)
    return Endpoint(url, headers, tuple(secrets))


def _split(text: str) -> SplitResult | None:
    """The parts of an address; None where it is none."""
    try:
        parts = urlsplit(text)
        reachable = parts.hostname and parts.port != 0
    except ValueError:
        return None
    # An @ after the host, or a query, comes of a password with a character that ends the host.
    rest = f"{parts.path}{parts.query}{parts.fragment}"
    clean = text.isprintable() and "@" not in rest and rest == parts.path
    return parts if reachable and clean and parts.scheme in ("http", "https") else None


def _check_token(token: str, *, plain: bool) -> None:
    if not re.fullmatch(r"[\x21-\x7e]{1,4096}", token):
        raise AccessDenied(
            "The Hub token holds characters that no token has.", "Set HF_TOKEN to the token alone."
        )
    if plain:
        raise AccessDenied(
            "HF_ENDPOINT is a plain http address: the Hub token would be readable on the way.",
            "Use https, or unset HF_TOKEN.",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _proxy(name: str) -> str:
    return os.environ.get(name.lower()) or os.environ.get(name) or ""


def _credentials(address: str) -> list[str]:
    """The user and password of an address, as written and decoded."""
    rest = address.partition("://")[2] or address
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if not at:
        return []
    parts = [user, *user.split(":", 1)]
    return [part for text in parts for part in (text, unquote(text)) if len(part) > 2]

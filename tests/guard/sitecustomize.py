"""Loopback only: on the import path of every test's process, and of those that it starts.

An audit hook sees every connection that Python makes. LLMCLI_TESTS_REACH names one more address:
this machine's own, for what will not talk over loopback.
"""

from __future__ import annotations

import os
import sys


def _is_loopback(host: object) -> bool:
    text = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    own = os.environ.get("LLMCLI_TESTS_REACH", "")
    return text in (None, "", "localhost", "::1", "0.0.0.0", own) or (
        isinstance(text, str) and text.startswith("127.")
    )


def refuse_the_internet(event: str, arguments: tuple[object, ...]) -> None:
    """Raise where a socket leaves this machine or a name would be asked of a name server."""
    if event == "socket.connect":
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    if not _is_loopback(host):
        # Not an Exception: nothing may mistake it for a network that is merely down.
        raise SystemExit(f"a test tried to reach {host!r}")


sys.addaudithook(refuse_the_internet)

"""A server of ours in a process of its own, and an HTTP client that costs little."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def ids(row: int, count: int, vocab: int = 50_000) -> list[int]:
    """A prompt's tokens, another for each row."""
    return [(7919 * i + 104_729 * row + 11) % vocab for i in range(count)]


# -- a client that costs little --------------------------------------------------------------


async def post(url: str, body: dict[str, Any]) -> AsyncIterator[bytes]:
    """Send a request on a connection of its own; yield the status line, then the body's lines."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        data = json.dumps(body).encode()
        writer.write(
            f"POST {parts.path or '/v1/completions'} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
            "Connection: close\r\n\r\n".encode()
            + data
        )
        yield (await reader.readline()).strip()
        while (await reader.readline()).strip():
            pass
        while line := await reader.readline():
            yield line.strip()
    finally:
        writer.close()


async def get(url: str, path: str) -> bytes:
    """The body of an answer."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer.partition(b"\r\n\r\n")[2]


@dataclass
class Streamed:
    """A streamed completion.

    Attributes:
        times: When each chunk came, by `time.perf_counter`.
        tokens: How many tokens it had, as the server counts them.
    """

    times: list[float]
    tokens: int = 0


async def stream(url: str, prompt: Any, count: int, **more: Any) -> Streamed:
    """Stream a completion of so many tokens."""
    body = {"prompt": prompt, "max_tokens": count, "stream": True, **more}
    streamed, last = Streamed([]), b""
    async for line in post(url, body):
        if line.startswith(b"data: {"):
            streamed.times.append(time.perf_counter())
            last = line
        elif line.startswith(b"HTTP") and b" 200 " not in line:
            raise SystemExit(f"{url}: {line.decode()}")
    usage = json.loads(last[6:]).get("usage") or {} if last else {}
    streamed.tokens = usage.get("completion_tokens", 0)
    return streamed


# -- servers ---------------------------------------------------------------------------------


@dataclass
class Server:
    """Ours, in a process of its own."""

    url: str
    process: subprocess.Popen[str]
    _told: bool = False

    def terminate(self) -> None:
        """Tell it to end, once."""
        if not self._told:
            self._told = True
            self.process.send_signal(signal.SIGTERM)

    def memory(self) -> int:
        """Resident kilobytes."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    async def ready(self) -> dict[str, Any]:
        """What it says of itself."""
        found: dict[str, Any] = json.loads(await get(self.url, "/readyz"))
        return found

    async def metric(self, name: str) -> float:
        """One of the figures that it counts."""
        lines = (await get(self.url, "/metrics")).decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


@contextlib.contextmanager
def serving(model: str, *options: str) -> Iterator[Server]:
    """Start our server and end it, which must go well."""
    command = [sys.executable, "-m", "llmcli", "serve", "-m", model, "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().rpartition(" ")[2].strip()
    server = Server(url, process)
    try:
        yield server
        server.terminate()
        status = process.wait(60)
        assert status == 0, f"it ended with {status}"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def peer(command: Sequence[str], url: str, log: Path) -> Iterator[None]:
    """Start another server, wait until it says that it is well, and kill it in the end."""
    with log.open("w") as told:
        process = subprocess.Popen(command, stdout=told, stderr=told)
    try:
        while b"ok" not in (b"" if process.poll() is not None else _health(url)):
            if process.poll() is not None:
                raise SystemExit(f"{command[0]} has ended: {log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield
    finally:
        process.kill()
        process.wait()


def _health(url: str) -> bytes:
    try:
        return asyncio.run(get(url, "/health"))
    except OSError:
        return b""  # it does not listen yet


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port

"""Servers in processes of their own, for tests that speak HTTP to them."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmcli.api import load
from llmcli.models.language_model import LanguageModel
from llmcli.serve.app import App
from llmcli.serve.engine import Engine
from llmcli.serve.gate import Rules
from llmcli.tasks.chat import template_for

GUARD = Path(__file__).parent / "guard"


@dataclass
class Server:
    """A server that is ready.

    Attributes:
        url: Where.
        process: It.
        client: Keeps connections to it.
        log: Its lines of JSON on stderr, as they come.
        words: What else it wrote there.
    """

    url: str
    process: subprocess.Popen[str]
    client: httpx2.Client
    log: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)
    words: queue.Queue[str] = field(default_factory=queue.Queue)

    def post(self, path: str, body: object = None, **options: Any) -> httpx2.Response:
        return self.client.post(path, json=body, **options)

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return self.client.get(path, **options)

    def complete(self, prompt: object, **settings: Any) -> dict[str, Any]:
        """The answer to a completion, which must be one."""
        answer = self.post("/v1/completions", {"prompt": prompt, **settings})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    @contextmanager
    def streaming(self, path: str, body: object) -> Iterator[Iterator[dict[str, Any]]]:
        """The chunks of a stream."""
        with self.client.stream("POST", path, json=body) as answer:
            assert answer.status_code == 200
            yield chunks_of(answer.iter_lines())

    def chunks(self, path: str, body: object) -> list[dict[str, Any]]:
        """All chunks of a stream."""
        with self.streaming(path, body) as chunks:
            return list(chunks)

    def logged(self, path: str) -> dict[str, Any]:
        """The next record of a route in the access log; waits for it."""
        while True:
            record = self.log.get(timeout=60)
            if record["path"] == path:
                return record

    def read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("{"):
                self.log.put(json.loads(line))
            else:
                self.words.put(line)


def chunks_of(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Server-sent events, to the one that ends them."""
    for line in lines:
        if not line:
            continue
        assert line.startswith("data: ")
        if line == "data: [DONE]":
            return
        yield json.loads(line.removeprefix("data: "))
    raise AssertionError("a stream without an end")


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the bundled model is prepared, once for all servers."""
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(scope="session")
def fable(caches: Path) -> LanguageModel:
    """The bundled model in this process; servers find it prepared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(caches))
        model = load("fable", threads=1)
        model.decoder()
    return model


Start = Callable[..., AbstractContextManager[Server]]


@pytest.fixture(scope="session")
def start_server(fable: LanguageModel, caches: Path) -> Start:
    """Start servers of the bundled model; arguments as for :func:`running`."""
    return partial(running, caches=caches)


@contextmanager
def running(
    *args: str, caches: Path, program: Sequence[str] = ("-m", "llmcli")
) -> Iterator[Server]:
    """A server of the bundled model on a free port, which is killed in the end."""
    paths = [str(GUARD), str(Path(__file__).parents[1])]
    process = subprocess.Popen(
        [sys.executable, *program, "serve", "-m", "fable", "--port", "0", "--log-json", *args],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "XDG_CACHE_HOME": str(caches),
            "LLMCLI_CONFIG": os.devnull,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    url = line.rpartition(" ")[2].strip()
    unix = url.partition("unix:")[2]
    transport = httpx2.HTTPTransport(uds=unix) if unix else httpx2.HTTPTransport()
    base = "http://localhost" if unix else url
    client = httpx2.Client(base_url=base, timeout=60, trust_env=False, transport=transport)
    server = Server(url, process, client)
    reader = threading.Thread(target=server.read_log, daemon=True)
    reader.start()
    try:
        assert line.startswith("Serving"), server.words.get(timeout=60)
        yield server
    finally:
        client.close()
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        reader.join()
        process.stdout.close()
        assert process.stderr is not None
        process.stderr.close()


@asynccontextmanager
async def in_this_process(
    model: LanguageModel, *, tracer: Any = None
) -> AsyncIterator[tuple[App, httpx2.AsyncClient]]:
    """A server of a model without a socket: one slot, one place to wait."""
    engine = Engine(model, slots=1, queue=1)
    await engine.start(lambda: None)
    app = App(engine, template=lambda: template_for(model, "plain"), rules=Rules(), tracer=tracer)
    transport = httpx2.ASGITransport(app.asgi)
    try:
        async with httpx2.AsyncClient(transport=transport, base_url="http://here") as client:
            yield app, client
    finally:
        await asyncio.to_thread(engine.stop)
        app.close()

"""The server as a process: its socket, its signals, its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from llmcli.errors import InvalidInput, LlmcliError, StorageError
from llmcli.reporting import Notify, silent
from llmcli.serve.app import App
from llmcli.serve.engine import Engine
from llmcli.serve.gate import Record, Rules, loopback_hosts
from llmcli.serve.telemetry import find_tracer

if TYPE_CHECKING:
    from llmcli.models.language_model import LanguageModel
    from llmcli.tokenization.chat import ChatTemplate

_BACKLOG = 2048
# How long the last words to a client may take.
_LAST_WORDS_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How the server is reached, and what it lets in.

    Attributes:
        host: The address it listens on.
        port: 0 for any that is free.
        uds: A Unix socket instead.
        keys: Any of them opens; none lets everybody in.
        origins: Web pages of these origins may call.
        slots: Sequences at once.
        queue: Requests that may wait.
        cache_bytes: For what was read before.
        timeout: Seconds that an answer may take.
        drain: Seconds that running answers get to finish at the end.
        max_body: Bytes of a request.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    uds: Path | None = None
    keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    slots: int = 8
    queue: int = 64
    cache_bytes: int = 256_000_000
    timeout: float | None = None
    drain: float = 30.0
    max_body: int = 8 << 20


def serve(
    model: LanguageModel,
    options: ServeOptions,
    *,
    template: Callable[[], ChatTemplate],
    ready: Callable[[str], None],
    notify: Notify = silent,
    noted: Callable[[Record], None] = lambda record: None,
) -> int | None:
    """Serve a model until a signal ends it.

    Args:
        model: The model.
        options: How.
        template: How conversations are written.
        ready: Called with the URL when requests can come.
        notify: Called with a sentence for whoever runs the server.
        noted: Called with each request's record.

    Returns:
        The signal that ended it.

    Raises:
        LlmcliError: the model cannot be loaded, the address cannot be had, the engine failed,
            or answers were cut off at the end.
    """
    with _listening(options) as (sock, url):
        server = _Server(model, options, template, notify, noted)
        return asyncio.run(server.run(sock, lambda: ready(url)))


class _Quiet(uvicorn.Server):
    """Leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Server:
    def __init__(
        self,
        model: LanguageModel,
        options: ServeOptions,
        template: Callable[[], ChatTemplate],
        notify: Notify,
        noted: Callable[[Record], None],
    ) -> None:
        self._options = options
        self._notify = notify
        self._engine = Engine(
            model, slots=options.slots, queue=options.queue, cache_bytes=options.cache_bytes
        )
        self._ended_by: int | None = None
        named = loopback_hosts(options.host) if options.uds is None else None
        self._app = App(
            self._engine,
            template=template,
            rules=Rules(
                keys=options.keys,
                origins=options.origins,
                hosts=named,
                max_body=options.max_body,
            ),
            timeout=options.timeout,
            noted=noted,
            tracer=find_tracer(),
        )
        self._uvicorn = _Quiet(
            uvicorn.Config(
                self._app.asgi,
                http="h11",
                ws="none",
                lifespan="off",
                loop="asyncio",
                interface="asgi3",
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                date_header=True,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=None,
            )
        )

    async def run(self, sock: socket.socket, ready: Callable[[], None]) -> int | None:
        engine = self._engine
        self._ending = asyncio.Event()
        lost = False
        try:
            await engine.start(self._stop_listening)
            self._handle_signals()
            sock.listen(_BACKLOG)
            serving = asyncio.create_task(self._uvicorn.serve([sock]))
            ready()
            lost = await self._wait(serving)
        finally:
            await asyncio.to_thread(engine.stop)
            self._app.close()
        if engine.failure is not None:
            raise engine.failure
        if lost:
            raise LlmcliError(
                f"Answers were cut off after {self._options.drain:g} seconds.",
                "Give them longer with --drain.",
            )
        return self._ended_by

    async def _wait(self, serving: asyncio.Task[None]) -> bool:
        """Wait for the end; whether answers were lost that should have been finished."""
        ending = asyncio.create_task(self._ending.wait())
        await asyncio.wait([serving, ending], return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        done, _ = await asyncio.wait([serving], timeout=self._options.drain)
        if done:
            serving.result()
            return False
        lost = self._engine.busy
        self._engine.cut_off()
        # What is left then is a client that does not read, or sends no end of its request.
        if not (await asyncio.wait([serving], timeout=_LAST_WORDS_SECONDS))[0]:
            self._uvicorn.force_exit = True
            await serving
        return lost

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            if sys.platform == "win32":  # its event loop takes no signals
                signal.signal(number, lambda n, _: loop.call_soon_threadsafe(self._signalled, n))
            else:
                loop.add_signal_handler(number, self._signalled, number)

    def _signalled(self, number: int) -> None:
        if self._ended_by is not None:
            os._exit(128 + number)  # the second one waits for nothing
        self._ended_by = number
        if self._engine.busy:
            self._notify("Running answers are finished first; once more ends at once.")
        self._stop_listening()

    def _stop_listening(self) -> None:
        """Take nothing new; what runs goes on."""
        self._app.draining = True
        self._uvicorn.should_exit = True
        self._ending.set()


@contextlib.contextmanager
def _listening(options: ServeOptions) -> Iterator[tuple[socket.socket, str]]:
    """A bound socket, and the URL it is reached by."""
    kind = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.socket(kind if options.uds is None else _unix_sockets()) as sock:
        if options.uds is None:
            url = _bind(sock, options.host, options.port)
        else:
            url = _bind_unix(sock, options.uds)
        try:
            yield sock, url
        finally:
            if options.uds is not None:
                options.uds.unlink(missing_ok=True)


def _bind(sock: socket.socket, host: str, port: int) -> str:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as exc:
        raise StorageError(
            f"Cannot listen on {host}:{port}: {exc.strerror}.", "Choose another --host or --port."
        ) from exc
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{sock.getsockname()[1]}"


def _unix_sockets() -> socket.AddressFamily:
    if sys.platform == "win32":
        raise InvalidInput("Python has no Unix sockets on Windows.", "Use --port instead of --uds.")
    return socket.AF_UNIX


def _bind_unix(sock: socket.socket, path: Path) -> str:
    try:
        _clear(path)
        before = os.umask(0o177)  # nobody else may call
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
    except OSError as exc:
        raise StorageError(
            f"Cannot listen on {path}: {exc.strerror or exc}.", "Choose another --uds."
        ) from exc
    return f"unix:{path}"


def _clear(path: Path) -> None:
    """Remove a socket that nobody listens on any more."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return
    with socket.socket(_unix_sockets(), socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()

"""The server as a process: who may ask, how much, who left, how it ends."""

from __future__ import annotations

import base64
import os
import signal
import socket
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from servers import Server, Start

ROUTE = "/v1/completions"
LONG = {"prompt": "Once upon a time", "max_tokens": 900, "ignore_eos": True, "seed": 1}
KEY = "a-key-for-tests"


@pytest.fixture(scope="module")
def server(start_server: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One slot, one place to wait."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"# for tests\nanother\n{KEY}\n")
    options = ["--slots", "1", "--queue", "1", "--max-body", "20000", "--drain", "3600"]
    options += ["--api-key-file", str(keys)]
    with start_server(*options, "--allow-origin", "https://page.example") as server:
        server.client.headers["Authorization"] = f"Bearer {KEY}"
        yield server


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", f"Bearer {KEY}x", KEY, "Bearer # for tests", "Basic !", f"Bearer {KEY}\udcff"],
)
def test_without_a_key(server: Server, authorization: str) -> None:
    headers = {"Authorization": authorization.encode("utf-8", "surrogateescape")}
    for path in ("/v1/models", "/metrics", "/nothing", "/openapi.json"):
        answer = server.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    for path in ("/health", "/livez", "/readyz"):
        assert server.get(path, headers=headers).status_code == 200


def test_keys_open(server: Server) -> None:
    basic = base64.b64encode(f"me:{KEY}".encode()).decode()
    for authorization in (f"Bearer {KEY}", "bearer another", f"Basic {basic}"):
        answer = server.get("/v1/models", headers={"Authorization": authorization})
        assert answer.status_code == 200


def test_pages_of_other_origins(server: Server) -> None:
    asked = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    answer = server.client.options(ROUTE, headers=asked)
    assert answer.status_code == 204
    assert "authorization" in answer.headers["Access-Control-Allow-Headers"]
    answer = server.get("/v1/models", headers={"Origin": "https://page.example"})
    assert answer.headers["Access-Control-Allow-Origin"] == "https://page.example"
    answer = server.get("/v1/models", headers={"Origin": "https://other.example"})
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_bodies_have_a_limit(server: Server) -> None:
    """Whether their length is said before or not; the server goes on."""
    large = b'{"prompt": "' + b"x" * 20000 + b'"}'
    kind = {"Content-Type": "application/json"}
    assert server.post(ROUTE, content=large, headers=kind).status_code == 413
    pieces = (large[at : at + 5000] for at in range(0, len(large), 5000))
    answer = server.post(ROUTE, content=pieces, headers=kind)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert server.complete("x", max_tokens=1)["choices"]


def test_a_full_queue_and_clients_that_leave(server: Server) -> None:
    """One runs, one waits, one is told to come again; the first leaves, and the second runs."""
    with ThreadPoolExecutor(1) as pool:
        with server.streaming(ROUTE, {**LONG, "stream": True}) as chunks:
            next(chunks)
            second = pool.submit(server.complete, "A fox", max_tokens=2, seed=3)
            wait_for(server, waiting=1)
            answer = server.post(ROUTE, {"prompt": "x"})
            assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
            assert server.get("/health").status_code == 200
            assert server.get("/readyz").json()["running"] == 1
        assert second.result()["usage"]["completion_tokens"] == 2
    while (record := server.logged(ROUTE))["status"] != 200 or not record["stream"]:
        pass
    assert record["finish_reasons"] == [None]
    assert record["completion_tokens"] < 900


def test_a_client_that_leaves_the_queue(server: Server) -> None:
    body = b'{"prompt": "x"}'
    head = f"POST {ROUTE} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with server.streaming(ROUTE, {**LONG, "stream": True}) as chunks:
        next(chunks)
        with socket.create_connection(("127.0.0.1", urlsplit(server.url).port or 0)) as leaving:
            leaving.sendall(head.encode() + body)
            wait_for(server, waiting=1)
        wait_for(server, waiting=0)
        next(chunks)
    wait_for(server, running=0)


def wait_for(server: Server, **figures: int) -> None:
    """Wait until the server says so of itself."""
    while not figures.items() <= server.get("/readyz").json().items():
        pass


def test_what_runs_is_finished_at_the_end(server: Server) -> None:
    """SIGTERM: the stream goes on to its end, nothing new begins, and the exit status is 0."""
    asked = {**LONG, "max_tokens": 80, "stream": True}
    whole = server.complete(**{**asked, "stream": False})["choices"][0]["text"]
    with server.streaming(ROUTE, asked) as chunks:
        text = next(chunks)["choices"][0]["text"]
        server.process.send_signal(signal.SIGTERM)
        rest = list(chunks)
    assert text + "".join(chunk["choices"][0]["text"] for chunk in rest) == whole
    assert rest[-1]["choices"][0]["finish_reason"] == "length"
    assert server.process.wait(60) == 0
    assert "are finished first" in server.words.get(timeout=60)
    assert server.words.empty()


def test_a_socket_of_its_own(start_server: Start, tmp_path: Path) -> None:
    """Only its owner may call; Ctrl-C ends it with 130, the second one at once."""
    path = tmp_path / "socket"
    with start_server("--uds", str(path)) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert server.complete("x", max_tokens=1)["choices"]
        with server.streaming(ROUTE, {**LONG, "stream": True}) as chunks:
            next(chunks)
            server.process.send_signal(signal.SIGINT)
            assert "once more ends at once" in server.words.get(timeout=60)
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(60) == 130
    assert path.exists(), "nobody cleared up"
    with start_server("--uds", str(path)) as server:
        assert server.get("/health").status_code == 200


# Runs the command with a decoder that fails in the end.
DYING = """
import llmcli.engine.native_decoder, llmcli.engine.transformers_decoder
for kind in (llmcli.engine.native_decoder.NativeDecoder,
             llmcli.engine.transformers_decoder.TransformersDecoder):
    def append(self, texts, *, append=kind.append, calls=iter(range(99)), **options):
        if next(calls) == 20:
            raise RuntimeError("the weights are gone")
        return append(self, texts, **options)
    kind.append = append
from llmcli.__main__ import main
main()
"""


def test_a_dead_engine_ends_the_server(start_server: Start) -> None:
    with start_server(program=("-c", DYING)) as server:
        answer = server.post(ROUTE, LONG)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_failed")
        assert server.process.wait(60) == 1
        assert "the weights are gone" in server.words.get(timeout=60)


def test_answers_that_take_too_long_at_the_end(start_server: Start) -> None:
    """They are told that they are cut off, and so is whoever ended the server."""
    with start_server("--drain", "0") as server:
        with server.client.stream("POST", ROUTE, json={**LONG, "stream": True}) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            *_, last, _ = lines
        assert '"code":"shutting_down"' in last
        assert server.process.wait(60) == 1
        assert "are finished first" in server.words.get(timeout=60)
        assert "were cut off after 0 seconds" in server.words.get(timeout=60)


def test_wrong_calls(start_server: Start, tmp_path: Path, run_llmcli: Any) -> None:
    empty = tmp_path / "keys"
    empty.write_text("# none\n")
    result = run_llmcli("serve", "-m", "fable", "--api-key-file", str(empty))
    assert result.returncode == 2
    assert b"has no key" in result.stderr
    assert os.fsencode(empty) in result.stderr

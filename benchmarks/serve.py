"""The server under load: speed beside the engine and other servers, gaps, sameness, endurance.

    python benchmarks/serve.py speed FOLDER [--precision float32] [--clients 1 4 16 32] [--rounds 3]
        [--other NAME=URL ...]
    python benchmarks/serve.py gaps FOLDER
    python benchmarks/serve.py same [--requests 1000]
    python benchmarks/serve.py soak [--minutes 3]
    python benchmarks/serve.py slots FOLDER

FOLDER holds a model of the 124M GPT-2's shape with its tokenizer (compare.py makes a random one).
Another server is started by hand, serves the same weights, and is named with its URL. Everything
runs on this machine, the client too: its share of the processor is told.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PROMPT, MADE = 32, 128


def ids(row: int, count: int = PROMPT, vocab: int = 50_000) -> list[int]:
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


async def stream(url: str, prompt: Any, count: int, **more: Any) -> list[float]:
    """When each token of a streamed completion came."""
    body = {"prompt": prompt, "max_tokens": count, "stream": True, "ignore_eos": True, **more}
    times = []
    async for line in post(url, body):
        if line.startswith(b"data: {"):
            times.append(time.perf_counter())
        elif line.startswith(b"HTTP") and b" 200 " not in line:
            raise SystemExit(f"{url}: {line.decode()}")
    return times


# -- servers ---------------------------------------------------------------------------------


@dataclass
class Server:
    """Ours, in a process of its own."""

    url: str
    process: subprocess.Popen[str]

    def memory(self) -> int:
        """Resident kilobytes."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    async def ready(self) -> dict[str, Any]:
        """What it says of itself."""
        parts = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        found: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
        return found


@contextlib.contextmanager
def serving(model: str, *options: str) -> Iterator[Server]:
    """Start our server and end it, which must go well."""
    command = [sys.executable, "-m", "llmcli", "serve", "-m", model, "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().rpartition(" ")[2].strip()
    try:
        yield Server(url, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, "it did not end well"
    finally:
        process.kill()
        process.wait()


# -- speed -----------------------------------------------------------------------------------


def in_process(decoder: Any, clients: int) -> float:
    """Tokens a second of the scheduler alone."""
    from llmcli.engine.params import SamplingParams
    from llmcli.engine.scheduler import Request, Scheduler
    from llmcli.engine.transcript import Prompt

    scheduler = Scheduler(decoder, token_bytes=lambda token: b"a", slots=clients)
    params = SamplingParams(
        seed=1, temperature=0.8, top_p=0.95, max_new_tokens=MADE, ignore_eos=True
    )
    begin = time.perf_counter()
    for row in range(clients):
        prompt = Prompt(ids=tuple(ids(row)))
        scheduler.submit(Request(prompt=prompt, params=params, record=row))
    while scheduler.busy:
        scheduler.step()
    spent = time.perf_counter() - begin
    scheduler.close()
    return clients * MADE / spent


async def over_http(url: str, clients: int, salt: int) -> tuple[float, float]:
    """Tokens a second, and the client's share of one processor."""
    begin, used = time.perf_counter(), time.process_time()
    sampling = {"temperature": 0.8, "top_p": 0.95, "seed": 1}
    await asyncio.gather(
        *(stream(url, ids(row + salt), MADE, **sampling) for row in range(clients))
    )
    spent = time.perf_counter() - begin
    return clients * MADE / spent, (time.process_time() - used) / spent


def speed(arguments: argparse.Namespace) -> None:
    """Tokens a second of all, in rounds that take turns."""
    from llmcli.api import load

    decoder = load(arguments.folder, precision=arguments.precision, device="cpu").decoder()
    others = dict(each.split("=", 1) for each in arguments.other)
    found: dict[tuple[str, int], list[float]] = {}
    shares: dict[int, list[float]] = {}
    slots = str(max(arguments.clients))
    options = ("--precision", arguments.precision, "--slots", slots, "--prefix-cache", "0")
    with serving(arguments.folder, *options) as server:
        for turn in range(arguments.rounds + 1):
            for clients in arguments.clients:
                rates = {"engine": in_process(decoder, clients)}
                rates["serve"], share = asyncio.run(over_http(server.url, clients, 1000 * turn))
                for name, url in others.items():
                    rates[name] = asyncio.run(over_http(url, clients, 1000 * turn))[0]
                if not turn:
                    continue  # warm by now
                for name, rate in rates.items():
                    found.setdefault((name, clients), []).append(rate)
                shares.setdefault(clients, []).append(share)
    print(f"{arguments.precision}: tokens a second, medians of {arguments.rounds}")
    for clients in arguments.clients:
        middle = {
            name: statistics.median(found[name, clients]) for name in ("engine", "serve", *others)
        }
        ratios = [
            a / b for a, b in zip(found["serve", clients], found["engine", clients], strict=True)
        ]
        told = "  ".join(f"{name} {rate:7.1f}" for name, rate in middle.items())
        print(
            f"{clients:3} clients: {told}  serve/engine {statistics.median(ratios):.3f}  "
            f"client's processor {statistics.median(shares[clients]):.0%}"
        )


# -- gaps ------------------------------------------------------------------------------------


def gaps(arguments: argparse.Namespace) -> None:
    """How long streams pause while a long prompt is read."""

    async def run(url: str) -> tuple[list[float], list[float]]:
        streams = [asyncio.create_task(stream(url, ids(row), 300)) for row in range(4)]
        await asyncio.sleep(1)
        begin = time.perf_counter()
        first = (await stream(url, ids(arguments.rounds + 77, 900), 1))[0]
        plain, during = [], []
        for times in await asyncio.gather(*streams):
            for earlier, later in pairwise(times[5:]):
                inside = earlier < first and later > begin
                (during if inside else plain).append(later - earlier)
        return plain, during

    options = ("--precision", arguments.precision, "--prefix-cache", "0")
    with serving(arguments.folder, *options) as server:
        asyncio.run(run(server.url))
        plain, during = asyncio.run(run(server.url))
    middle = statistics.median(plain + during)
    late = sorted(during)[int(0.99 * (len(during) - 1))]
    print(
        f"gap: p50 {middle * 1e3:.1f} ms; p99 while 900 tokens are read {late * 1e3:.1f} ms, "
        f"{late / middle:.2f} times as long ({len(during)} gaps)"
    )


# -- sameness --------------------------------------------------------------------------------

TEXTS = (
    "Once upon a time",
    "The fox said to the crow:",
    "There were three brothers; the eldest had twelve sheep, the second seven, and the youngest "
    "none, so that he had to go out into the world. ",
)


def drawn(chance: random.Random) -> dict[str, Any]:
    """A request: some begin alike, some are long, all have a seed."""
    text = chance.choice(TEXTS) * chance.choice([1, 1, 1, 6])
    text += chance.choice(["", " and", " The king", " " + "la " * chance.randrange(60)])
    return {
        "prompt": text,
        "seed": chance.randrange(1000),
        "max_tokens": chance.choice([1, 5, 20, 60]),
        "temperature": chance.choice([0.0, 0.7, 1.0, 1.3]),
        "top_p": chance.choice([1.0, 0.9]),
        "top_k": chance.choice([0, 40]),
        "repetition_penalty": chance.choice([1.0, 1.2]),
    }


async def answer(url: str, request: dict[str, Any], leaves: int | None) -> str | None:
    """A streamed text; None where the client left after so many chunks."""
    text, chunks = "", 0
    async for line in post(url, {**request, "stream": True}):
        if line.startswith(b"data: {"):
            text += json.loads(line[6:])["choices"][0]["text"]
            chunks += 1
            if chunks == leaves:
                return None
    return text


def same(arguments: argparse.Namespace) -> None:
    """Requests under load, with clients that leave, against the lone command's texts."""
    from llmcli.api import load
    from llmcli.tasks.generate import continue_text
    from llmcli.tasks.prompts import sampling_params

    model, chance = load("fable", precision=arguments.precision), random.Random(7)
    requests = [drawn(chance) for _ in range(arguments.requests)]
    leaving = [chance.choice([None, None, None, 1, 3]) for _ in requests]

    async def run(url: str) -> list[str | None]:
        gate = asyncio.Semaphore(32)

        async def one(request: dict[str, Any], leaves: int | None) -> str | None:
            async with gate:
                return await answer(url, request, leaves)

        return await asyncio.gather(*map(one, requests, leaving))

    options = ("--precision", arguments.precision, "--prefix-cache", "8MB")
    with serving("fable", *options) as server:
        texts = asyncio.run(run(server.url))
        after = asyncio.run(server.ready())
    wrong = compared = 0
    for request, text in zip(requests, texts, strict=True):
        if text is None:
            continue
        given = {**request, "max_new_tokens": request["max_tokens"]}
        del given["prompt"], given["max_tokens"]
        events = continue_text(model, request["prompt"], sampling_params(model, given)).events
        compared += 1
        wrong += "".join(event.text for event in events) != text
    print(
        f"{len(requests)} requests, {len(requests) - compared} of whose clients left; of the "
        f"other {compared} texts {wrong} differ; {after['running']} slots in use afterwards"
    )
    assert not wrong
    assert not after["running"]


# -- endurance -------------------------------------------------------------------------------


def soak(arguments: argparse.Namespace) -> None:
    """32 clients, half of whose answers they do not wait for, for some minutes."""

    async def client(url: str, end: float, number: int, counts: Counter[str]) -> None:
        chance = random.Random(number)
        while time.monotonic() < end:
            leaves = chance.choice([None, None, None, 1, 2, 8])
            try:
                text = await answer(url, drawn(chance), leaves)
                counts["left" if text is None else "whole"] += 1
            except (OSError, asyncio.IncompleteReadError, SystemExit):
                counts["failed"] += 1

    async def run(server: Server) -> tuple[Counter[str], list[int]]:
        counts, sizes = Counter[str](), []
        begin = time.monotonic()
        end = begin + 60 * arguments.minutes
        clients = [asyncio.create_task(client(server.url, end, n, counts)) for n in range(32)]
        for part in range(1, 11):
            await asyncio.sleep(begin + 6 * arguments.minutes * part - time.monotonic())
            sizes.append(server.memory())
            print(f"{6 * part * arguments.minutes:.0f} s: {sizes[-1] // 1024} MB", flush=True)
        await asyncio.gather(*clients)
        await nothing_running(server)
        return counts, sizes

    with serving("fable", "--prefix-cache", "32MB") as server:
        counts, sizes = asyncio.run(run(server))
    print(f"{dict(counts)}; resident {sizes[1] / 1024:.1f} MB after a fifth of the time, ", end="")
    print(f"{sizes[-1] / 1024:.1f} MB at the end")
    assert not counts["failed"]


async def nothing_running(server: Server) -> None:
    """Wait until no slot is in use."""
    async with asyncio.timeout(60):
        while (await server.ready())["running"]:
            await asyncio.sleep(0.1)


def slots(arguments: argparse.Namespace) -> None:
    """What slots that nobody uses take."""

    def used(count: str) -> tuple[int, int]:
        with serving(arguments.folder, "--slots", count, "--prefix-cache", "0") as server:
            begin = server.memory()

            async def fill() -> None:
                await asyncio.gather(
                    *(stream(server.url, ids(row, 200), 20) for row in range(int(count)))
                )

            asyncio.run(fill())
            return begin, server.memory()

    few, many = used("1"), used("32")
    for name, place in (("before", 0), ("after", 1)):
        each = (many[place] - few[place]) / 31
        print(
            f"{name} use: {few[place] // 1024} MB with 1 slot, {many[place] // 1024} MB with 32: "
            f"{each / 1024:.2f} MB a slot"
        )


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["speed", "gaps", "same", "soak", "slots"])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--other", action="append", default=[])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=3)
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    {"speed": speed, "gaps": gaps, "same": same, "soak": soak, "slots": slots}[arguments.what](
        arguments
    )


if __name__ == "__main__":
    main()

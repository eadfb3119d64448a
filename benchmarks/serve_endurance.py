"""The server under load for long: sameness, clients that leave or are killed, its end, memory.

    python benchmarks/serve_endurance.py same [--requests 1000] [--precision float32]
    python benchmarks/serve_endurance.py kills [--requests 1000]
    python benchmarks/serve_endurance.py drain [--rounds 10]
    python benchmarks/serve_endurance.py soak [--minutes 10]
    python benchmarks/serve_endurance.py slots FOLDER

FOLDER holds a model whose slots are weighed; all else serves the bundled model.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from serving import Server, ids, post, serving, stream

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


@dataclass
class Told:
    """What a client read of an answer.

    Attributes:
        text: Of the answer.
        status: Of HTTP; 0 where no answer came.
        whole: Whether the answer came to its end.
    """

    text: str = ""
    status: int = 0
    whole: bool = False


async def answer(url: str, request: dict[str, Any], leaves: int | None = None) -> Told:
    """A streamed answer, or its first so many chunks."""
    told, chunks = Told(), 0
    async for line in post(url, {**request, "stream": True}):
        if line.startswith(b"HTTP"):
            told.status = int(line.split()[1])
        elif line.startswith(b"data: {"):
            [choice] = json.loads(line[6:])["choices"]
            told.text += choice["text"]
            chunks += 1
            if chunks == leaves:
                return told
        elif line == b"data: [DONE]":
            told.whole = True
    return told


async def nothing_running(server: Server) -> None:
    """Wait until no slot is in use and nobody waits; that it takes a minute is an error."""
    async with asyncio.timeout(60):
        while (state := await server.ready())["running"] or state["waiting"]:
            await asyncio.sleep(0.1)


# -- sameness --------------------------------------------------------------------------------


def alone(model: Any, request: dict[str, Any]) -> str:
    """What the lone command says."""
    from llmcli.tasks.generate import continue_text
    from llmcli.tasks.prompts import sampling_params

    given = {**request, "max_new_tokens": request["max_tokens"]}
    del given["prompt"], given["max_tokens"]
    events = continue_text(model, request["prompt"], sampling_params(model, given)).events
    return "".join(event.text for event in events)


def same(arguments: argparse.Namespace) -> None:
    """Requests under load against the lone command's texts.

    A client that leaves has read the beginning of it.
    """
    from llmcli.api import load

    model, chance = load("fable", precision=arguments.precision), random.Random(7)
    requests = [drawn(chance) for _ in range(arguments.requests)]
    leaving = [chance.choice([None, None, None, 1, 3]) for _ in requests]

    async def run(server: Server) -> list[Told]:
        gate = asyncio.Semaphore(32)

        async def one(request: dict[str, Any], leaves: int | None) -> Told:
            async with gate:
                return await answer(server.url, request, leaves)

        told = await asyncio.gather(*map(one, requests, leaving))
        await nothing_running(server)
        return told

    options = ("--precision", arguments.precision, "--prefix-cache", "8MB")
    with serving("fable", *options) as server:
        told = asyncio.run(run(server))
        cached = asyncio.run(server.metric("llmcli_cached_prompt_tokens_total"))
    whole = wrong = 0
    for request, each in zip(requests, told, strict=True):
        expected = alone(model, request)
        whole += each.whole
        wrong += expected != each.text if each.whole else not expected.startswith(each.text)
    print(
        f"{len(requests)} requests, {len(requests) - whole} of whose clients left early, "
        f"{cached:.0f} prompt tokens from the cache: {wrong} texts differ"
    )
    assert not wrong


# -- clients that are killed -----------------------------------------------------------------


def kills(arguments: argparse.Namespace) -> None:
    """Clients that are killed with SIGKILL, each at a moment of its own; no slot is lost.

    Some have sent half a request, some wait, some read.
    """

    def client(url: str, chance: random.Random) -> int:
        """Begin a client in a process of its own; its id."""
        body = json.dumps({**drawn(chance), "max_tokens": 400, "stream": True, "ignore_eos": True})
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        sent = (head + body).encode()
        if chance.random() < 0.1:
            sent = sent[: chance.randrange(len(sent))]
        child = os.fork()
        if child:
            return child
        parts = urlsplit(url)
        with contextlib.suppress(OSError):
            connection = socket.create_connection((parts.hostname, parts.port or 0))
            connection.sendall(sent)
            while connection.recv(4096):
                pass
        while True:  # the parent kills it
            signal.pause()

    async def run(server: Server) -> tuple[int, Told]:
        chance, pending = random.Random(3), 0
        running: list[int] = []
        for number in range(arguments.requests):
            running.append(client(server.url, chance))
            if number % 50 == 49:
                state = await server.ready()
                pending = max(pending, state["running"] + state["waiting"])
            while len(running) > 40 or (running and number == arguments.requests - 1):
                await asyncio.sleep(chance.choice([0, 0, 0.01, 0.05]))
                killed = running.pop(chance.randrange(len(running)))
                os.kill(killed, signal.SIGKILL)
                os.waitpid(killed, 0)
        await nothing_running(server)
        return pending, await answer(server.url, asked)

    from llmcli.api import load

    asked = {"prompt": TEXTS[0], "seed": 5, "max_tokens": 60}
    expected = alone(load("fable"), asked)
    with serving("fable", "--prefix-cache", "8MB") as server:
        asyncio.run(answer(server.url, asked))
        before = server.memory()
        pending, told = asyncio.run(run(server))
        after = server.memory()
        descriptors = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    print(
        f"{arguments.requests} clients killed, up to {pending} requests at once: 0 slots in use "
        f"afterwards, {descriptors} files open, {before // 1024} MB before, {after // 1024} MB "
        f"after, and the next answer is {'right' if told.text == expected else 'WRONG'}"
    )
    assert told.text == expected


# -- the end ---------------------------------------------------------------------------------


def drain(arguments: argparse.Namespace) -> None:
    """SIGTERM under load: what was taken is answered to its end, and the status is 0."""

    async def run(server: Server, chance: random.Random, counts: Counter[str]) -> None:
        async def client() -> None:
            while True:
                try:
                    told = await answer(server.url, {**drawn(chance), "max_tokens": 60})
                except OSError:
                    counts["refused"] += 1  # nobody listens any more
                    return
                if told.status == 200:
                    counts["whole" if told.whole else "LOST"] += 1
                elif told.status == 503:
                    counts["refused"] += 1
                    return
                else:  # the connection was taken, and closed before the request was read
                    counts["unread" if not told.status else f"status {told.status}"] += 1
                    return

        clients = [asyncio.create_task(client()) for _ in range(32)]
        await asyncio.sleep(0.5 + chance.random())
        server.terminate()
        await asyncio.gather(*clients)

    counts: Counter[str] = Counter()
    for number in range(arguments.rounds):
        with serving("fable") as server:  # it must end with status 0
            asyncio.run(run(server, random.Random(number), counts))
    print(f"{arguments.rounds} ends under load, 32 clients: {dict(counts)}")
    assert not counts["LOST"]


# -- endurance -------------------------------------------------------------------------------


def soak(arguments: argparse.Namespace) -> None:
    """32 clients, half of whose answers they do not wait for, for some minutes."""

    async def client(url: str, end: float, number: int, counts: Counter[str]) -> None:
        chance = random.Random(number)
        while time.monotonic() < end:
            leaves = chance.choice([None, None, None, 1, 2, 8])
            try:
                told = await answer(url, drawn(chance), leaves)
                good = told.status == 200 and (told.whole or leaves)
                counts["failed" if not good else "whole" if told.whole else "left"] += 1
            except (OSError, asyncio.IncompleteReadError):
                counts["failed"] += 1

    async def run(server: Server) -> tuple[Counter[str], list[int]]:
        counts: Counter[str] = Counter()
        sizes = []
        begin = time.monotonic()
        end = begin + 60 * arguments.minutes
        clients = [asyncio.create_task(client(server.url, end, n, counts)) for n in range(32)]
        for part in range(1, 11):
            await asyncio.sleep(begin + 6 * arguments.minutes * part - time.monotonic())
            sizes.append(server.memory())
            print(f"{6 * part * arguments.minutes:.0f} s: {sizes[-1] / 1024:.1f} MB", flush=True)
        await asyncio.gather(*clients)
        await nothing_running(server)
        return counts, sizes

    with serving("fable", "--prefix-cache", "32MB") as server:
        counts, sizes = asyncio.run(run(server))
    grown = (sizes[-1] - sizes[1]) / 1024
    print(f"{dict(counts)}; {grown:+.1f} MB from a fifth of the time to the end")
    assert not counts["failed"]


def slots(arguments: argparse.Namespace) -> None:
    """What slots that nobody uses take."""

    def used(count: str) -> tuple[int, int]:
        options = ("--slots", count, "--prefix-cache", "0", "--precision", arguments.precision)
        with serving(arguments.folder, *options) as server:
            begin = server.memory()

            async def fill() -> None:
                await asyncio.gather(
                    *(stream(server.url, ids(row, 200), 20) for row in range(int(count)))
                )

            asyncio.run(fill())
            return begin, server.memory()

    few, many = used("8"), used("32")
    for name, place in (("before", 0), ("after", 1)):
        each = (many[place] - few[place]) / 24
        print(
            f"{name} use: {few[place] // 1024} MB with 8 slots, {many[place] // 1024} MB with 32: "
            f"{each / 1024:.2f} MB a slot"
        )


def main() -> None:
    """Run what was asked for."""
    runs = {"same": same, "kills": kills, "drain": drain, "soak": soak, "slots": slots}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=list(runs))
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=10)
    arguments = parser.parse_args()
    if arguments.what == "slots" and arguments.folder is None:
        sys.exit("slots needs a FOLDER")
    runs[arguments.what](arguments)


if __name__ == "__main__":
    main()

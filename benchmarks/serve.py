"""The server's speed beside the engine's and other servers', and how long streams pause.

    python benchmarks/serve.py speed FOLDER [--precision float32] [--clients 1 4 16 32] [--rounds 3]
        [--llama-server PROGRAM --gguf FILE] [--transformers PROGRAM]
    python benchmarks/serve.py gaps FOLDER [--precision float32] [--rounds 3]

FOLDER holds a model of the 124M GPT-2's shape with its tokenizer (peers.sh and compare.py make a
random one). The other servers serve the same weights; PROGRAM is llama.cpp's llama-server, or
`transformers` in an environment with transformers[serving]. Everything runs on this machine, the
client too: its share of a processor is told. Systems take turns in every round.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from serving import free_port, ids, peer, serving, stream

PROMPT, MADE = 32, 128
SAMPLING = {"temperature": 0.8, "top_p": 0.95, "seed": 1}


# -- speed -----------------------------------------------------------------------------------


@dataclass
class Served:
    """A server that is measured.

    Attributes:
        name: What the table calls it.
        url: Where it is.
        more: What its requests say beside what all say.
        tokenizer: Writes prompts for one that does not take token ids.
    """

    name: str
    url: str
    more: dict[str, Any] = field(default_factory=dict)
    tokenizer: Any = None

    async def run(self, clients: int, salt: int) -> None:
        """Have so many clients ask at once."""

        async def client(row: int) -> None:
            prompt: Any = ids(row + salt, PROMPT)
            if self.tokenizer is not None:
                prompt = self.tokenizer.decode(prompt)
            streamed = await stream(self.url, prompt, MADE, **SAMPLING, **self.more)
            assert streamed.tokens == MADE, f"{self.name}: {streamed.tokens} tokens"

        await asyncio.gather(*map(client, range(clients)))

    def measure(self, clients: int, salt: int) -> tuple[float, float]:
        """Tokens a second, and the clients' share of one processor."""
        begin, used = time.perf_counter(), time.process_time()
        asyncio.run(self.run(clients, salt))
        spent = time.perf_counter() - begin
        return clients * MADE / spent, (time.process_time() - used) / spent


OURS = {"ignore_eos": True, "stream_options": {"include_usage": True}}


@contextlib.contextmanager
def llama_server(arguments: argparse.Namespace, log: Path) -> Iterator[Served]:
    """llama.cpp's server, with a slot for each client."""
    port, slots = free_port(), max(arguments.clients)
    url = f"http://127.0.0.1:{port}"
    threads = str(len(os.sched_getaffinity(0)))
    command = [arguments.llama_server, "-m", arguments.gguf, "--port", str(port), "--no-webui"]
    command += ["-t", threads, "-np", str(slots), "-c", str(slots * 2 * (PROMPT + MADE))]
    with peer(command, url, log):
        yield Served("llama-server", url, OURS)


@contextlib.contextmanager
def transformers_serve(arguments: argparse.Namespace, log: Path) -> Iterator[Served]:
    """transformers' server, as fast as it is here."""
    from transformers import AutoTokenizer

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [arguments.transformers, "serve", arguments.folder, "--device", "cpu"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--continuous-batching"]
    tokenizer = AutoTokenizer.from_pretrained(arguments.folder)
    with peer(command, url, log):
        yield Served("transformers", url, {"model": arguments.folder}, tokenizer)


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
        prompt = Prompt(ids=tuple(ids(row, PROMPT)))
        scheduler.submit(Request(prompt=prompt, params=params, record=row))
    while scheduler.busy:
        scheduler.step()
    spent = time.perf_counter() - begin
    scheduler.close()
    return clients * MADE / spent


def speed(arguments: argparse.Namespace) -> None:
    """Tokens a second of all, in rounds that take turns."""
    from llmcli.api import load

    decoder = load(arguments.folder, precision=arguments.precision, device="cpu").decoder()
    slots = str(max(arguments.clients))
    options = ("--precision", arguments.precision, "--slots", slots, "--prefix-cache", "0")
    rates: dict[tuple[str, int], list[float]] = {}
    shares: dict[int, list[float]] = {}
    with contextlib.ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(serving(arguments.folder, *options))
        servers = [Served("serve", server.url, OURS)]
        if arguments.llama_server:
            servers.append(stack.enter_context(llama_server(arguments, logs / "llama")))
        if arguments.transformers:
            servers.append(stack.enter_context(transformers_serve(arguments, logs / "hf")))
        for turn in range(arguments.rounds + 1):
            for clients in arguments.clients:
                found = {"engine": in_process(decoder, clients)}
                for each in servers:
                    found[each.name], share = each.measure(clients, 1000 * turn)
                    if turn and each.name == "serve":
                        shares.setdefault(clients, []).append(share)
                for name, rate in found.items() if turn else ():  # warm by then
                    rates.setdefault((name, clients), []).append(rate)
    print(f"{arguments.precision}: tokens a second, medians of {arguments.rounds} rounds")
    for clients in arguments.clients:
        ours = rates["serve", clients]
        line = f"{clients:3} clients: serve {statistics.median(ours):7.1f}"
        for name in ("engine", *(each.name for each in servers[1:])):
            theirs = rates[name, clients]
            ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
            line += f"  {name} {statistics.median(theirs):7.1f} ({ratio:.3f})"
        print(f"{line}  client's processor {statistics.median(shares[clients]):.0%}")


# -- gaps ------------------------------------------------------------------------------------


def gaps(arguments: argparse.Namespace) -> None:
    """How long streams pause while a long prompt is read."""

    async def run(url: str, turn: int) -> tuple[list[float], list[float]]:
        made = [stream(url, ids(row, PROMPT), 300, ignore_eos=True) for row in range(4)]
        streams = [asyncio.create_task(each) for each in made]
        await asyncio.sleep(1)
        begin = time.perf_counter()
        first = (await stream(url, ids(turn + 77, 900), 1)).times[0]
        plain, during = [], []
        for streamed in await asyncio.gather(*streams):
            for earlier, later in pairwise(streamed.times[5:]):
                inside = earlier < first and later > begin
                (during if inside else plain).append(later - earlier)
        return plain, during

    options = ("--precision", arguments.precision, "--prefix-cache", arguments.prefix_cache)
    ratios = []
    with serving(arguments.folder, *options) as server:
        for turn in range(arguments.rounds + 1):
            plain, during = asyncio.run(run(server.url, turn))
            if not turn:
                continue  # warm by then
            middle = statistics.median(plain + during)
            late = sorted(during)[int(0.99 * (len(during) - 1))]
            ratios.append(late / middle)
            print(
                f"{arguments.precision}: p50 {middle * 1e3:.1f} ms; p99 while 900 tokens are read "
                f"{late * 1e3:.1f} ms, {ratios[-1]:.2f} times as long ({len(during)} gaps)"
            )
    print(f"{arguments.precision}: median of {len(ratios)} rounds {statistics.median(ratios):.2f}")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["speed", "gaps"])
    parser.add_argument("folder")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prefix-cache", default="0")
    parser.add_argument("--llama-server")
    parser.add_argument("--gguf")
    parser.add_argument("--transformers")
    arguments = parser.parse_args()
    {"speed": speed, "gaps": gaps}[arguments.what](arguments)


if __name__ == "__main__":
    main()

"""Several processes on this machine, without a launcher: ``--processes N``."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO

from llmcli.errors import LlmcliError


class LostProcess(LlmcliError):
    """Raised when another process of the run is gone; its own message says why."""


def under_launcher() -> bool:
    """Whether torchrun, ``accelerate launch`` or :func:`workers` started this process."""
    return "RANK" in os.environ


def alone_under_accelerate() -> bool:
    """Whether ``accelerate launch`` started this process and no other.

    Without a GPU it does so whatever its ``--num_processes`` is, unless ``--multi_gpu`` is given.
    """
    return "ACCELERATE_USE_CPU" in os.environ and not under_launcher()


def is_first_process() -> bool:
    """Whether this process speaks for the run."""
    return os.environ.get("RANK", "0") == "0"


def command_line(arguments: Sequence[str]) -> str:
    """Return the shell's line that does the run again, from its beginning.

    Args:
        arguments: Of llmcli, its name aside.
    """
    program = ["llmcli"]
    if under_launcher():
        world = os.environ.get("WORLD_SIZE", "1")
        local = os.environ.get("LOCAL_WORLD_SIZE", world)
        machines = int(world) // int(local)
        nodes = ["--nnodes", str(machines)] if machines > 1 else []
        program = ["torchrun", *nodes, "--nproc-per-node", local, "-m", "llmcli"]
    return shlex.join([*program, *(each for each in arguments if each != "--resume")])


@contextmanager
def workers(processes: int, arguments: Sequence[str]) -> Iterator[None]:
    """Make this process the first of ``processes`` and start the others.

    They run ``python -m llmcli ARGUMENTS`` and meet over loopback. The processor's threads are
    shared out: each process works alone between two steps, so none waits for another's threads.
    The others are in sessions of their own, so that a Ctrl-C reaches this process alone, and are
    ended with it. What they say on stderr is shown where one of them fails.

    Must be entered before torch is imported, which reads the number of threads.

    Raises:
        LlmcliError: another process failed, and this one only noticed that it was gone.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    threads = max(1, (os.cpu_count() or 1) // processes)
    shared = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(threads),
    }
    with ExitStack() as files:
        logs = [files.enter_context(tempfile.TemporaryFile()) for _ in range(1, processes)]
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "llmcli", *arguments],
                env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
            for rank, log in enumerate(logs, 1)
        ]
        with _environment(shared | {"RANK": "0", "LOCAL_RANK": "0"}):
            try:
                yield
                for process in started:
                    process.wait(timeout=60)
            except LostProcess as exc:
                raise LlmcliError(_last_words(started, logs), exc.cure) from exc
            finally:
                for process in started:
                    process.kill()
                    process.wait()


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _last_words(started: Sequence[subprocess.Popen[bytes]], logs: Sequence[IO[bytes]]) -> str:
    """Return what the first process that failed said at the end."""
    for rank, (process, log) in enumerate(zip(started, logs, strict=True), 1):
        try:
            code = process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            continue
        if code:
            log.seek(0)
            lines = log.read().decode("utf-8", "replace").strip().splitlines() or [""]
            said = lines[-1].removeprefix("Error: ")
            ended = f"by signal {-code}" if code < 0 else f"with status {code}"
            return f"Process {rank} of the run ended {ended}: {said}".removesuffix(": ")
    return "Another process of the run has ended."

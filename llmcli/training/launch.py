"""Several processes on this machine, without a launcher: ``--processes N``."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


def under_launcher() -> bool:
    """Whether torchrun, ``accelerate launch`` or :func:`workers` started this process."""
    return "RANK" in os.environ


@contextmanager
def workers(processes: int, arguments: Sequence[str]) -> Iterator[None]:
    """Make this process the first of ``processes`` and start the others.

    They run ``python -m llmcli ARGUMENTS`` and meet over loopback. The processor's threads are
    shared out: each process works alone between two steps, so none waits for another's threads.
    The others are in sessions of their own, so that a Ctrl-C reaches this process alone, and are
    ended with it.

    Must be entered before torch is imported, which reads the number of threads.
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
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "llmcli", *arguments],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        for rank in range(1, processes)
    ]
    os.environ.update(shared | {"RANK": "0", "LOCAL_RANK": "0"})
    try:
        yield
        for process in started:
            process.wait(timeout=60)
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()

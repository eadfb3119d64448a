"""A Ray cluster of two nodes on this machine, in a process of its own, and what can be killed.

Run as a program it starts the cluster, prints its address, and takes orders on stdin: ``node``
kills the second node; the end of stdin ends it all.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self


class TwoNodes:
    """Two nodes of a processor each, gone when it is left.

    Attributes:
        address: Of the head.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        assert self.address, "the cluster did not start"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def kill_node(self) -> None:
        """Kill -9 all of the second node."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("node\n")
        self._process.stdin.flush()
        self._process.stdout.readline()

    def kill_actor(self) -> bool:
        """Kill -9 one of the processes that make parts; whether there was one."""
        for process in _descendants(self._process.pid):
            if b"_PartMaker" in _command(process):
                os.kill(process, signal.SIGKILL)
                return True
        return False


def _descendants(process: int) -> Iterator[int]:
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            yield child
            yield from _descendants(child)


def _command(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def main() -> None:
    from ray.cluster_utils import Cluster
    from ray.util import get_node_ip_address

    os.environ["LLMCLI_TESTS_REACH"] = get_node_ip_address()
    words = sys.stdout
    sys.stdout = sys.stderr  # Ray talks there
    own = {"num_cpus": 1, "include_dashboard": False}
    own["object_store_memory"] = 80 << 20
    cluster = Cluster(initialize_head=True, head_node_args=own)
    node = cluster.add_node(**own)
    print(cluster.address, file=words, flush=True)
    for order in sys.stdin:
        if order.strip() == "node":
            cluster.remove_node(node, allow_graceful=False)
            print("done", file=words, flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()

"""Out of memory as an error that can be reported, not as a kill by the kernel."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

_SHARE = 0.9  # of what is available; the kernel's figure is an estimate, and others run too
_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Return the bytes that processes may still take, here and in this container.

    None where the system does not say (elsewhere than on Linux).
    """
    found = _kilobytes(Path("/proc/meminfo"), "MemAvailable", "SwapFree")
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        pages = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        used -= sum(int(pages[name]) for name in ("active_file", "inactive_file"))  # can be dropped
    except (OSError, ValueError, KeyError):  # no limit, or none that is written there
        return found
    return limit - used if found is None else min(found, limit - used)


def _kilobytes(path: Path, *names: str) -> int | None:
    """Return the sum of some lines of ``Name:  123 kB``, in bytes."""
    try:
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        return sum(int(lines[name].split()[0]) for name in names) * 1024
    except (OSError, KeyError, ValueError):
        return None


@contextlib.contextmanager
def bounded_memory(processes: int) -> Iterator[None]:
    """Let this process take its share of what is available, and no more.

    Linux promises more memory than there is, and kills who uses it: without a word, and not
    always the one that asked for too much. With a bound the allocation itself fails.

    Args:
        processes: How many share the machine's memory.
    """
    available = available_memory() if sys.platform == "linux" else None
    taken = _kilobytes(Path("/proc/self/status"), "VmData")
    if available is None or taken is None:
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    bound = taken + int(_SHARE * max(0, available)) // processes
    bounds = [bound, *(each for each in before if each != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)

"""The machine: its processor, how much memory was used, and how much there is to take."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

# What glibc's mallopt calls its thresholds.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_ABOVE_ANY_BUFFER = 1 << 30

_SHARE = 0.9  # of what is available; the kernel's figure is an estimate, and others run too
_CGROUP = Path("/sys/fs/cgroup")


def processor_name() -> str:
    """Return the processor's name as the system gives it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def usable_processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_average() -> float:
    """How many programs want a processor, over the last minute; 0 where the system has no count."""
    if sys.platform == "win32":
        return 0.0
    return os.getloadavg()[0]


def process_age() -> float:
    """Seconds since this process began; where the system does not tell, those it has computed."""
    if sys.platform != "linux":
        return time.process_time()
    try:
        fields = Path("/proc/self/stat").read_text("ascii").rpartition(")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(time.clock_gettime(time.CLOCK_BOOTTIME) - began, 0.0)
    except (OSError, ValueError, IndexError):
        return time.process_time()


def peak_memory() -> int:
    """The largest resident size of this process so far, in bytes."""
    if sys.platform == "win32":
        return _peak_working_set()
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if sys.platform == "win32":

    class _Counters(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS of the Windows API."""

        _fields_ = (
            ("size", wintypes.DWORD),
            ("page_faults", wintypes.DWORD),
            ("peak_working_set", ctypes.c_size_t),
            ("others", ctypes.c_size_t * 7),
        )

    def _peak_working_set() -> int:
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel.GetCurrentProcess.restype = wintypes.HANDLE
        found = _Counters(size=ctypes.sizeof(_Counters))
        process = wintypes.HANDLE(kernel.GetCurrentProcess())
        if not kernel.K32GetProcessMemoryInfo(process, ctypes.byref(found), found.size):
            raise ctypes.WinError(ctypes.get_last_error())
        return int(found.peak_working_set)


def _cpuinfo(key: str) -> str:
    """The first value of a key in Linux's list of processors; empty where there is none."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return ""


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
    """Let this process take its share of what is available, and no more: fail, not be killed.

    Linux promises more memory than there is, and kills who uses it: without a word, and not
    always the one that asked for too much. With a bound the allocation itself fails.

    Args:
        processes: How many share the machine's memory.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    available = available_memory()
    taken = _kilobytes(Path("/proc/self/status"), "VmData")
    if available is None or taken is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    bound = taken + int(_SHARE * max(0, available)) // processes
    bounds = [bound, *(each for each in before if each != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def keep_freed_memory() -> bool:
    """Let the process keep freed blocks for its next large tensors.

    By default glibc hands a block of megabytes back to the kernel when it is freed, and the
    next tensor of that size costs a page fault for every 4 KiB; on a virtual machine that can
    take longer than the arithmetic. The process's memory then stays at its peak.

    Returns:
        Whether anything changed; False where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = mallopt(_M_MMAP_THRESHOLD, _ABOVE_ANY_BUFFER)
    return bool(kept and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))

"""The machine: what the processor is, and how much memory was used."""

from __future__ import annotations

import os
import platform
import resource
import sys
from functools import cache
from pathlib import Path


def processor_name() -> str:
    """Return the processor's name as the system gives it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def usable_processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def mkl_is_ahead() -> bool:
    """Whether torch's own product (MKL) beats oneDNN on float32 weights that lie [in, out].

    It does on Intel's processors: oneDNN takes up to twice as long where rows lie a multiple of
    4 KiB apart, as those of GPT-2's widest layer do. Elsewhere MKL does without its best code.
    """
    import torch

    available = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return bool(available) and _cpuinfo("vendor_id") == "GenuineIntel"


def peak_memory() -> int:
    """The largest resident size of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _cpuinfo(key: str) -> str:
    """The first value of a key in Linux's list of processors; empty where there is none."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return ""

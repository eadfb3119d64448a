"""Keep the large activations of one step for the next."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGE = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Tell glibc not to give freed blocks back to the kernel; False where there is no glibc.

    By default every large tensor is mapped anew, and each step spends most of its time in page
    faults. Only ``malloc`` is touched; the process's memory stays at its peak.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30) & mallopt(_M_TRIM_THRESHOLD, _LARGE))

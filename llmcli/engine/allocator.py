"""Keep large buffers between uses: what glibc does with blocks that are freed."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_ABOVE_ANY_BUFFER = 1 << 30


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
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = mallopt(_M_MMAP_THRESHOLD, _ABOVE_ANY_BUFFER)
    return bool(kept and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))

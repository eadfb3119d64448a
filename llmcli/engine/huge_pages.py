"""Huge pages for packed weights: fewer page faults to load, fewer address look-ups to stream.

With pages of 4 KiB a step over 124 MB of int8 weights needs 30,000 address translations, which
on a virtual machine walk two levels of tables. Where the kernel gives huge pages to those who
ask (``madvise``), a decoding step was 10 to 15% shorter with them; see docs/performance.md.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_MADV_HUGEPAGE = 14
_HUGE_PAGE = 2 << 20


def reserve_huge_pages(nbytes: int) -> bool:
    """Make the process's next ``nbytes`` of large blocks come from huge pages.

    The C library's heap is extended by that much and the extension is marked before anything
    touches it; large blocks then come from the heap. Memory that is not used costs nothing.

    Returns:
        Whether it was done; False where there is no Linux or no glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    mallopt, sbrk = getattr(libc, "mallopt", None), getattr(libc, "sbrk", None)
    if mallopt is None or sbrk is None:
        return False
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.sbrk.argtypes = [ctypes.c_ssize_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if not mallopt(_M_MMAP_THRESHOLD, 1 << 30) or not mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1):
        return False
    start = sbrk(0)
    mallopt(_M_TOP_PAD, nbytes + _HUGE_PAGE)
    libc.free(libc.malloc(nbytes))
    mallopt(_M_TOP_PAD, 128 << 10)
    first = -(-start // _HUGE_PAGE) * _HUGE_PAGE
    length = (sbrk(0) - first) // _HUGE_PAGE * _HUGE_PAGE
    return bool(length > 0 and libc.madvise(first, length, _MADV_HUGEPAGE) == 0)

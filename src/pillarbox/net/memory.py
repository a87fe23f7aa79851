"""How the C library's allocator keeps the buffers of many idle sessions out of memory.

A TLS session of uvloop has a buffer of 256 KiB, of which an idle one has used a page. glibc maps such a block anew, of
zeros that take no memory until they are written; but when the first is freed it raises its threshold, and from then on
cuts them from the heap, where each gets pages that others have written. That costs 22 KiB a session.
"""

from __future__ import annotations

import contextlib
import ctypes
from typing import Final

MAPPED_OCTETS: Final = 256 * 1024
"""Blocks from this size on are mapped, always."""
TRIM_OCTETS: Final = 8 * 1024 * 1024
"""So much free memory may stay at the end of the heap: glibc's 128 KiB would come and go all the time."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def keep_large_buffers_apart() -> None:
    """For this process and those it forks. Does nothing where the C library is another."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, MAPPED_OCTETS)
        library.mallopt(_M_TRIM_THRESHOLD, TRIM_OCTETS)

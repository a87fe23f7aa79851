"""Buffers of many idle sessions stay out of memory (case 190): large blocks are mapped even after one was freed."""

from __future__ import annotations

import subprocess
import sys

from pillarbox.net.memory import MAPPED_OCTETS

# glibc keeps a flag for a mapped block below the size, in the eight octets before the block
STORY = f"""
import ctypes
from pillarbox.net.memory import keep_large_buffers_apart
if KEEP:
    keep_large_buffers_apart()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.free.argtypes = [ctypes.c_void_p]
library.free(library.malloc({2 * MAPPED_OCTETS}))
block = library.malloc({MAPPED_OCTETS})
print(bool(ctypes.c_size_t.from_address(block - 8).value & 2))
"""


def mapped(keep: bool) -> str:
    story = STORY.replace("KEEP", str(keep))
    return subprocess.run([sys.executable, "-c", story], capture_output=True, text=True, check=True).stdout.strip()


def test_large_blocks_are_mapped_after_one_was_freed() -> None:
    assert mapped(True) == "True"
    assert mapped(False) == "False", "the C library has changed: is this still needed?"

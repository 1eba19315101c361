"""Keeps freed memory for the next batch instead of returning it to the system.

glibc returns large freed blocks at once, so a loader process would get new, zeroed pages for every batch: a tenth of its work
(benchmarks/loader.md). Keeping them does not raise its peak memory.
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's parameter numbers
_NEVER_TRIM = -1
_LARGEST_KEPT = 1 << 25  # glibc's maximum; larger blocks are still returned
_USER_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Makes glibc's allocator keep freed blocks of up to 32 MB; returns whether it does.

    Does nothing if the environment configures or replaces the allocator, or without glibc.
    """
    if any(os.environ.get(name) for name in _USER_SETTINGS):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # no glibc: musl, macOS, Windows
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER_TRIM))

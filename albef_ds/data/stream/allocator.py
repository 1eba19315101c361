"""Keeping freed memory for the next batch instead of giving it back to the system.

glibc returns large freed blocks at once, so that a loader process has the pages of every batch given to it, emptied, anew:
a tenth of its work (benchmarks/loader.md). What does the same again and again needs no less memory for it.
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's names for what follows
_NEVER_TRIM = -1
_LARGEST_KEPT = 1 << 25  # the most that glibc takes; larger blocks still come from the system and go back
_THEIR_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Ask glibc's allocator to keep what this process frees, in blocks of up to 32 MB; whether it does.

    Nothing changes where the environment sets the allocator up, or replaces it, or where there is no glibc.
    """
    if any(os.environ.get(name) for name in _THEIR_OWN):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # no glibc: musl, macOS, Windows
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER_TRIM))

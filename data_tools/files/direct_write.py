"""Writes a file sequentially and computes its checksum, bypassing the page cache where the file system allows it.

Shards are flushed to disk before they get their names, so copies in the page cache are useless: making them costs more than
hashing, and they evict what training reads. Where direct writing is refused (some network and memory file systems) the same
bytes are written the usual way.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from pathlib import Path

import xxhash

BUFFER = 1 << 20
"""Bytes per write: large enough for any disk, small enough to be hashed while in the processor's cache."""
_ALIGNMENT = 4096  # of memory, offsets and lengths, as disks with the largest blocks require
_HUGE_PAGE = 1 << 21  # the kernel looks up every page of a direct write, so the buffer is one page
_DIRECT = getattr(os, "O_DIRECT", 0)


class DirectFile:
    """A new file at `path`; `close` or `abort` ends it. `checksum` is the xxh3_128 of all bytes so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_bytes = 0
        self._hash = xxhash.xxh3_128()
        self._filled = 0
        self._memory, self._view = _aligned_buffer()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            self._file = os.open(path, flags | _DIRECT, 0o666)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._file = os.open(path, flags, 0o666)

    def append(self, data: bytes | memoryview) -> None:
        """Appends `data`."""
        size = len(data)
        self.num_bytes += size
        end = self._filled + size
        if end < BUFFER:
            self._view[self._filled : end] = data
            self._filled = end
            return
        rest = memoryview(data)
        while len(rest):
            part = rest[: BUFFER - self._filled]
            self._view[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            rest = rest[len(part) :]
            if self._filled == BUFFER:
                self._hash.update(self._view)
                self._write(BUFFER)
                self._filled = 0

    def close(self) -> str:
        """Writes the rest, flushes the file to disk and closes it; returns the checksum."""
        self._hash.update(self._view[: self._filled])
        whole = -(-self._filled // _ALIGNMENT) * _ALIGNMENT
        self._view[self._filled : whole] = bytes(whole - self._filled)
        self._write(whole)
        os.ftruncate(self._file, self.num_bytes)
        os.fsync(self._file)
        self._end()
        return self._hash.hexdigest()

    def abort(self) -> None:
        """Closes and removes the file."""
        self._end()
        self.path.unlink(missing_ok=True)

    def _write(self, size: int) -> None:
        done = 0
        while done < size:
            try:
                done += os.write(self._file, self._view[done:size])
            except OSError as error:
                flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
                if error.errno != errno.EINVAL or not flags & _DIRECT:
                    raise
                # Some file systems accept the flag and refuse the write.
                fcntl.fcntl(self._file, fcntl.F_SETFL, flags & ~_DIRECT)

    def _end(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _aligned_buffer() -> tuple[mmap.mmap, memoryview]:
    """Memory of BUFFER bytes, in one huge page if the kernel has a free one."""
    memory = mmap.mmap(-1, 2 * _HUGE_PAGE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    view = memoryview(memory)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % _HUGE_PAGE
    return memory, view[start : start + BUFFER]

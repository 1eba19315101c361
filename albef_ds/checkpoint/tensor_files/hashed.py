"""Writes files and computes their digest, and computes the digest of a file on the disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_CHUNK = 1 << 22


@dataclass(frozen=True)
class Entry:
    """Size and SHA-256 of a file."""

    bytes: int
    sha256: str


class HashedFile:
    """A file that computes the digest of what is written to it, in order."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._bytes = 0

    def write(self, content: bytes | memoryview) -> None:
        """Appends `content`."""
        self._file.write(content)
        self._digest.update(content)
        self._bytes += len(content)

    def entry(self) -> Entry:
        """Size and digest of everything written so far."""
        return Entry(self._bytes, self._digest.hexdigest())


@contextmanager
def new_file(path: Path) -> Iterator[HashedFile]:
    """The new file `path`, which is on disk when the block ends. Raises the disk's OSError."""
    with open(path, "wb") as raw:
        yield HashedFile(raw)
        raw.flush()
        os.fsync(raw.fileno())


def write_text(path: Path, text: str) -> Entry:
    """Writes `text` to the new file `path`, which is on disk on return."""
    with new_file(path) as file:
        file.write(text.encode())
    return file.entry()


def digest(path: Path) -> Entry:
    """Size and SHA-256 of the file `path` on the disk; it is dropped from the page cache first."""
    hashed, size = hashlib.sha256(), 0
    with open(path, "rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        buffer = bytearray(_CHUNK)
        while count := file.readinto(buffer):
            hashed.update(memoryview(buffer)[:count])
            size += count
    return Entry(size, hashed.hexdigest())

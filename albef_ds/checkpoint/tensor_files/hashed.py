"""Writes files and computes their checksum, and computes the checksum or the digest of a file on the disk.

A checksum (xxh3) finds damage at the speed of memory. Whoever names a file for others, such as in a lineage, takes SHA-256.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from xxhash import xxh3_128

Kind = Literal["xxh3_128", "sha256"]
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Entry:
    """Size and checksum of a file."""

    bytes: int
    checksum: str
    """Hexadecimal."""
    kind: Kind = "xxh3_128"
    """`sha256` in checkpoints of earlier versions."""


class HashedFile:
    """A file that computes the checksum of what is written to it, in order."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = xxh3_128()
        self._bytes = 0

    def write(self, content: bytes | memoryview) -> None:
        """Appends `content`."""
        self._file.write(content)
        self._digest.update(content)
        self._bytes += len(content)

    def entry(self) -> Entry:
        """Size and checksum of everything written so far."""
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


def checksum(path: Path, kind: Kind = "xxh3_128") -> Entry:
    """Size and checksum of the file `path` on the disk; it is dropped from the page cache first."""
    hashed, size = hashlib.sha256() if kind == "sha256" else xxh3_128(), 0
    with open(path, "rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        buffer = bytearray(_CHUNK)
        while count := file.readinto(buffer):
            hashed.update(memoryview(buffer)[:count])
            size += count
    return Entry(size, hashed.hexdigest(), kind)


def sha256_of(path: Path) -> str:
    """SHA-256 of the file `path` on the disk, hexadecimal."""
    return checksum(path, "sha256").checksum

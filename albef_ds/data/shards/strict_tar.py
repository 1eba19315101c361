"""Reads tars whose end is known: where Python's tarfile stops without a word, a damaged or missing header is an error here."""

from __future__ import annotations

import tarfile
from typing import IO

from albef_ds.data.shards.format import BLOCK


class TarFaultError(Exception):
    """What follows in the tar cannot be read. `at_end`: every member is whole, and only the end mark is missing."""

    def __init__(self, fault: str, *, at_end: bool = False) -> None:
        super().__init__(fault)
        self.at_end = at_end


class _StrictInfo(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictInfo:
        """Reads a header. Raises `TarFaultError` where tarfile would take a fault for the end of the tar."""
        if not buf:
            raise TarFaultError("it ends early, without an end mark", at_end=True)
        if len(buf) < BLOCK:
            raise TarFaultError("it ends early, inside a header")
        if not any(buf):
            return super().frombuf(buf, encoding, errors)  # raises tarfile's sign of the end
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            raise TarFaultError(f"a header is damaged ({error})") from None
        if info.size < 0:
            raise TarFaultError("a header is damaged (negative size)")
        return info


def open_tar(file: IO[bytes], *, stream: bool = False, compressed: bool = False) -> tarfile.TarFile:
    """Opens a tar whose iteration raises `TarFaultError`, or what tarfile raises, unless it comes to the tar's end mark.

    Args:
        file: its bytes.
        stream: read them from start to end; they may be compressed.
        compressed: also read gzip, bzip2 and xz.
    """
    return tarfile.open(fileobj=file, mode="r|*" if stream else "r:*" if compressed else "r:", tarinfo=_StrictInfo)

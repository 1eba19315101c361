"""Safetensors files written in one pass that also hashes them, and read tensor by tensor.

`safetensors` itself serialises a whole file in memory and leaves hashing to a second pass. Reading is the library's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from albef_ds.errors import ConfigError

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Entry:
    """Size and SHA-256 of a file."""

    bytes: int
    sha256: str


class _HashedFile:
    """A file that knows the digest of what was written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._bytes = 0

    def write(self, content: bytes | memoryview) -> None:
        self._file.write(content)
        self._digest.update(content)
        self._bytes += len(content)

    def entry(self) -> Entry:
        return Entry(self._bytes, self._digest.hexdigest())


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Entry:
    """Write CPU `tensors` to the new file `path`, on disk when this returns. Raises `OSError` as the disk does."""
    header: dict[str, object] = {}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with _synced(path) as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in tensors.values():
            if tensor.numel():
                file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return file.entry()


def write_text(path: Path, text: str) -> Entry:
    """Write `text` to the new file `path`, on disk when this returns."""
    with _synced(path) as file:
        file.write(text.encode())
    return file.entry()


@contextmanager
def _synced(path: Path) -> Iterator[_HashedFile]:
    with open(path, "wb") as raw:
        yield _HashedFile(raw)
        raw.flush()
        os.fsync(raw.fileno())


def digest(path: Path) -> Entry:
    """Size and SHA-256 of what the disk holds under `path`: the page cache is asked to let go of it first."""
    hashed, size = hashlib.sha256(), 0
    with open(path, "rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        buffer = bytearray(_CHUNK)
        while count := file.readinto(buffer):
            hashed.update(memoryview(buffer)[:count])
            size += count
    return Entry(size, hashed.hexdigest())


class TensorFile(Mapping[str, Tensor]):
    """A file of tensors that are read one at a time.

    Raises:
        ConfigError: the file is missing or no safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = cast(Any, safe_open(path, framework="pt"))
            self.names: set[str] = set(self._file.keys())
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{path} cannot be read ({error}): take another checkpoint") from None

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            config = self.path.with_name("config.json")
            raise ConfigError(f"{self.path} holds no {name}, so it does not fit this run: keep the settings in {config}")
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.names))

    def __len__(self) -> int:
        return len(self.names)

    def shape(self, name: str) -> torch.Size:
        """Shape of a tensor, without reading it."""
        return torch.Size(self._file.get_slice(name).get_shape())

"""State dicts in torch's own zip form, written one tensor at a time and read by position.

`torch.save` needs every tensor in memory at once, and a memory map keeps every page that was read. The form is stable since
torch 1.6: `data.pkl` describes the tensors, `data/N` holds the bytes of storage N. The description is read by
`torch.load(weights_only=True)`; nothing is unpickled here.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from albef_ds.checkpoint.tensor_files.lazy import LazyTensor, StoredTensors, listing, read_at
from albef_ds.checkpoint.tensor_files.read_errors import changed, unreadable
from albef_ds.common.errors import WeightsError

_ALIGNMENT = 64
_ROOT = "archive"
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_ZIP64_EXTRA = 20
_STORAGES = {
    torch.float64: torch.DoubleStorage,
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.int64: torch.LongStorage,
    torch.int32: torch.IntStorage,
    torch.int16: torch.ShortStorage,
    torch.int8: torch.CharStorage,
    torch.uint8: torch.ByteStorage,
    torch.bool: torch.BoolStorage,
}


class _Storage:
    """Represents the bytes of `data/key` in the description."""

    def __init__(self, key: int, dtype: torch.dtype, numel: int) -> None:
        self.id = ("storage", _STORAGES[dtype], str(key), "cpu", numel)


class _Described:
    """Represents a tensor in the description."""

    def __init__(self, storage: _Storage, shape: tuple[int, ...]) -> None:
        self._storage, self._shape = storage, shape

    def __reduce__(self) -> tuple[Any, ...]:
        stride = torch.empty(self._shape, device="meta").stride()
        return torch._utils._rebuild_tensor_v2, (self._storage, 0, self._shape, stride, False, OrderedDict())


class _Description(pickle.Pickler):
    """Writes the description, with references to storages."""

    def persistent_id(self, value: object) -> Any:
        return value.id if isinstance(value, _Storage) else None


def write_torch_file(path: Path, tensors: Mapping[str, LazyTensor], *, under: str | None) -> None:
    """Writes `tensors` to the new file `path`, which is on disk on return, holding one of them at a time.

    Args:
        path: the file, readable by `torch.load` since version 1.6.
        tensors: name -> tensor; names with the same `LazyTensor` share one storage.
        under: the key of the dict of tensors; None: the file is the bare dict.

    Raises:
        OSError: from the disk.
    """
    storages: dict[int, tuple[_Storage, LazyTensor]] = {}
    for entry in tensors.values():
        storages.setdefault(id(entry), (_Storage(len(storages), entry.dtype, entry.numel), entry))
    described = {name: _Described(storages[id(entry)][0], entry.shape) for name, entry in tensors.items()}
    text = io.BytesIO()
    _Description(text, protocol=2).dump({under: described} if under is not None else described)
    with open(path, "wb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            _add(archive, file, "data.pkl", text.getbuffer())
            _add(archive, file, "byteorder", sys.byteorder.encode())
            for number, (_, entry) in enumerate(storages.values()):
                _add(archive, file, f"data/{number}", entry.content())
            _add(archive, file, "version", b"3\n")
        file.flush()
        os.fsync(file.fileno())


def _add(archive: zipfile.ZipFile, file: BinaryIO, name: str, data: bytes | memoryview) -> None:
    """Adds an uncompressed member whose bytes start at a multiple of 64, as in torch's own files, for memory maps."""
    member = zipfile.ZipInfo(f"{_ROOT}/{name}")  # dated 1980, so that the same tensors give the same file
    start = file.tell() + _LOCAL_HEADER.size + len(member.filename) + _ZIP64_EXTRA + 4
    padding = -start % _ALIGNMENT
    member.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    with archive.open(member, "w", force_zip64=True) as entry:
        entry.write(data)


def open_torch_file(path: Path) -> StoredTensors:
    """The state dict of a file, bare or under `model`. Raises WeightsError if it is damaged, has code or is not a state dict.

    The zip form has a CRC-32 of every record: that of a tensor is checked when it is read, the others now.
    """
    try:
        if zipfile.is_zipfile(path):
            for member in _members(path):
                if not member.is_storage:
                    member.check(member.bytes())
        # A memory map needs the zip form; older files are read into memory.
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (MemoryError, WeightsError):
        raise
    except Exception as error:  # for foreign bytes the reader may raise anything; the file is at fault
        raise unreadable(path, error) from None
    beside: dict[str, Any] = {}
    wrapped = isinstance(loaded, dict) and isinstance(loaded.get("model"), dict)
    if wrapped:
        beside = {key: value for key, value in loaded.items() if key != "model"}
        loaded = loaded["model"]
    if not isinstance(loaded, dict) or not loaded:
        raise WeightsError(f"{path} holds no state dict: give a dict of tensors, or one under the key `model`")
    odd = [str(name) for name, value in loaded.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if odd:
        raise WeightsError(f"{path} holds more than tensors ({listing(odd)}): give a file with the state dict alone")
    if zipfile.is_zipfile(path):
        tensors = _by_position(path, loaded, beside)
    else:
        tensors = {name: LazyTensor.of(tensor) for name, tensor in loaded.items()}
    return StoredTensors(tensors, {}, beside, wrapped)


def _by_position(path: Path, tensors: Mapping[str, Tensor], beside: object) -> dict[str, LazyTensor]:
    """Converts the tensors of a memory map of the zip file `path` to lazily read ones.

    All tensors of the file, those `beside` included, are in one map, so their addresses differ as their positions in the file
    do. A tensor at an unexpected position (a view, a compressed member) stays mapped.
    """
    members = {member.start: member for member in _members(path) if member.is_storage and member.size}
    held = {start: member.size for start, member in members.items()}
    everything = [*tensors.values(), *_tensors_in(beside)]
    addresses = {tensor.untyped_storage().data_ptr() for tensor in everything if tensor.untyped_storage().nbytes()}
    first = min(addresses, default=0) - min(held, default=0)
    known = {address - first for address in addresses} == held.keys()
    lazy = {}
    mapped: set[int] = set()
    for name, tensor in tensors.items():
        start = tensor.data_ptr() - first
        whole = known and tensor.is_contiguous() and held.get(start) == tensor.nbytes
        if whole:
            # Not the tensor, which would keep the map open.
            shape, dtype = tuple(tensor.shape), tensor.dtype
            lazy[name] = LazyTensor(shape, dtype, read_at(path, start, tensor.nbytes, dtype, shape, members[start].check))
        else:
            mapped.add(tensor.untyped_storage().data_ptr() - first)
            lazy[name] = LazyTensor.of(tensor)
    if mapped:  # these are not read through a check later
        for start, member in members.items():
            if start in mapped or not known:
                member.check(member.bytes())
    return lazy


def _tensors_in(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors_in(part)


@dataclass(frozen=True)
class _Member:
    """An uncompressed record of the zip file `path`."""

    path: Path
    name: str
    start: int
    size: int
    crc: int
    """CRC-32; 0 if the writer left it out, as torch can."""

    @property
    def is_storage(self) -> bool:
        """True for the bytes of a tensor."""
        return "/data/" in self.name

    def bytes(self) -> bytearray:
        """The content, whole."""
        with open(self.path, "rb") as file:
            file.seek(self.start)
            return bytearray(file.read(self.size))

    def check(self, data: bytearray) -> None:
        """Raises WeightsError unless `data` is what was written."""
        if self.crc and zlib.crc32(data) != self.crc:
            raise changed(self.path, self.name)


def _members(path: Path) -> list[_Member]:
    """The uncompressed records of a file."""
    members = []
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for info in archive.infolist():
            if info.compress_type == zipfile.ZIP_STORED:
                file.seek(info.header_offset)
                header = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
                start = file.tell() + header[-2] + header[-1]
                members.append(_Member(path, info.filename, start, info.file_size, info.CRC))
    return members

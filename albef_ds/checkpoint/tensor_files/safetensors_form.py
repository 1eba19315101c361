"""Writes safetensors files one tensor at a time in a pass that also hashes them, and reads them by position.

The library serialises a whole file in memory and maps it to read, so a conversion would need as much memory as the file. The
library still checks every header.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from xxhash import xxh3_64_hexdigest

from albef_ds.checkpoint.tensor_files.hashed import Entry, new_file
from albef_ds.checkpoint.tensor_files.lazy import LazyTensor, StoredTensors, read_at
from albef_ds.checkpoint.tensor_files.read_errors import changed, unreadable
from albef_ds.common.errors import WeightsError

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CHECKSUMS, HEADER_CHECKSUM = "xxh3_64", "xxh3_64_header"
"""Keys of our metadata."""
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def write_safetensors(
    path: Path, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str] | None = None, *, checksums: bool = False
) -> Entry:
    """Writes `tensors` one by one to the new file `path`, which is on disk on return.

    With `checksums` the metadata holds the xxh3 hash of every tensor and of the header, which `open_safetensors` checks; every
    tensor is then read twice. Raises the disk's OSError.
    """
    # Widest elements first: every tensor is aligned without gaps, which the format forbids.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name in order:
        entry = tensors[name]
        end = place + entry.nbytes
        header[name] = {"dtype": _NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": [place, end]}
        place = end
    if checksums:
        sums = {name: xxh3_64_hexdigest(tensors[name].content()) for name in order}
        header["__metadata__"] = {**(metadata or {}), CHECKSUMS: json.dumps(sums)}
        header["__metadata__"][HEADER_CHECKSUM] = _header_checksum(header)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with new_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(tensors[name].content())
    return file.entry()


def open_safetensors(path: Path) -> StoredTensors:
    """The tensors of one file. Raises WeightsError if it is missing, damaged, or has a type that torch lacks."""
    try:
        with safe_open(path, framework="pt"):  # checks the header against the size of the file
            pass
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(length))
    except (OSError, SafetensorError, ValueError) as error:
        raise unreadable(path, error) from None
    metadata = header.get("__metadata__", {})
    sums = _checksums(path, header)
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise WeightsError(f"{path}: {name} is of type {entry['dtype']}: save it as one of {', '.join(_DTYPES)}")
        dtype, shape, (start, end) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
        check = _check(path, name, sums[name]) if name in sums else lambda _: None
        tensors[name] = LazyTensor(shape, dtype, read_at(path, 8 + length + start, end - start, dtype, shape, check))
    return StoredTensors(tensors, metadata)


def _checksums(path: Path, header: Mapping[str, Any]) -> dict[str, str]:
    """Name -> hash of the tensors of one of our files; empty for others. Raises WeightsError if the header has changed."""
    metadata = header.get("__metadata__", {})
    if CHECKSUMS not in metadata:
        return {}
    if metadata.get(HEADER_CHECKSUM) != _header_checksum(header):
        raise changed(path, "its header")
    sums: dict[str, str] = json.loads(metadata[CHECKSUMS])
    return sums


def _header_checksum(header: Mapping[str, Any]) -> str:
    """Hash of the header without the hash itself."""
    metadata = {key: value for key, value in header["__metadata__"].items() if key != HEADER_CHECKSUM}
    return xxh3_64_hexdigest(json.dumps({**header, "__metadata__": metadata}, sort_keys=True).encode())


def _check(path: Path, name: str, expected: str) -> Callable[[bytearray], None]:
    def check(data: bytearray) -> None:
        if xxh3_64_hexdigest(data) != expected:
            raise changed(path, name)

    return check

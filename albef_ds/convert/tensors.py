"""Tensors on disk that are read one at a time, and the safetensors files they are written to.

Reading a safetensors file goes by position and not through a memory map, so that the memory of a conversion is that of
its largest tensor whatever the size of the file. Knows nothing of models or names.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from albef_ds.errors import ConfigError

PICKLE_SUFFIXES = (".pth", ".pt", ".bin")
INDEX_SUFFIX = ".safetensors.index.json"

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
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that `read` fetches, of a shape and dtype known beforehand."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> LazyTensor:
        """One that is in memory already."""
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor)

    @property
    def numel(self) -> int:
        """Numbers in it."""
        return torch.Size(self.shape).numel()

    @property
    def nbytes(self) -> int:
        """Bytes of them."""
        return self.numel * self.dtype.itemsize

    def then(
        self, change: Callable[[Tensor], Tensor], shape: tuple[int, ...] | None = None, dtype: torch.dtype | None = None
    ) -> LazyTensor:
        """The tensor after `change`, which makes it of `shape` and `dtype` (None: as they are)."""
        return LazyTensor(shape or self.shape if shape is None else shape, dtype or self.dtype, lambda: change(self.read()))

    def to(self, dtype: torch.dtype) -> LazyTensor:
        """In another precision; tensors that are no floats stay as they are."""
        if not self.dtype.is_floating_point or dtype == self.dtype:
            return self
        return self.then(lambda tensor: tensor.to(dtype), dtype=dtype)


@dataclass(frozen=True)
class StoredTensors:
    """What a file or a set of shards holds."""

    tensors: dict[str, LazyTensor]
    metadata: dict[str, str] = field(default_factory=dict)
    """Of a safetensors file."""
    beside: dict[str, Any] = field(default_factory=dict)
    """What a training file keeps under other keys than `model` (optimizer, config, epoch)."""
    wrapped: bool = False
    """Whether the tensors lay under the key `model`."""


def open_tensors(path: Path) -> StoredTensors:
    """The tensors in a .safetensors file, its index of shards, or a .pth / .pt / .bin file. Never unpickles code.

    Raises:
        ConfigError: missing, damaged, of another type, with code in it, or not a dict of tensors.
    """
    if not path.is_file():
        raise ConfigError(f"{path} does not exist: give the path of a file of weights")
    if path.name.endswith(INDEX_SUFFIX):
        return _open_shards(path)
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    if path.suffix in PICKLE_SUFFIXES:
        return _open_pickle(path)
    raise ConfigError(f"{path} is not one of .safetensors, {', '.join(PICKLE_SUFFIXES)}: give a file of weights")


def _open_safetensors(path: Path) -> StoredTensors:
    try:
        with safe_open(path, framework="pt"):  # checks the header against the size of the file
            pass
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(length))
    except (OSError, SafetensorError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as safetensors ({_line(error)}): fetch or write it again") from None
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise ConfigError(f"{path}: {name} is of type {entry['dtype']}: save it as one of {', '.join(_DTYPES)}")
        dtype, shape, (start, end) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
        tensors[name] = LazyTensor(shape, dtype, _reader(path, 8 + length + start, end - start, dtype, shape))
    return StoredTensors(tensors, metadata)


def _reader(path: Path, start: int, size: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Callable[[], Tensor]:
    def read() -> Tensor:
        if size == 0:
            return torch.empty(shape, dtype=dtype)
        data = bytearray(size)
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            view, done = memoryview(data), 0
            while done < size:
                got = file.readinto(view[done:])
                if not got:
                    raise ConfigError(f"{path} became shorter while it was read: write it again")
                done += got
        return torch.frombuffer(data, dtype=dtype).view(shape)

    return read


def _open_shards(index: Path) -> StoredTensors:
    from albef_ds.config.files import read_json_object

    places = read_json_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ConfigError(f"{index} has no weight_map: write the model again")
    parts, metadata = {}, {}
    for name in sorted(set(places.values())):
        if Path(name).name != name:
            raise ConfigError(f"{index} points outside its folder ({name}): write the model again")
        part = open_tensors(index.parent / name)
        parts[name] = part.tensors
        metadata.update(part.metadata)
    held = {name for part in parts.values() for name in part}
    if different := sorted(held ^ places.keys()):
        raise ConfigError(
            f"{index} and its shards differ in {len(different)} tensors, first {different[0]}: write the model again"
        )
    return StoredTensors({name: parts[shard][name] for name, shard in places.items()}, metadata)


def _open_pickle(path: Path) -> StoredTensors:
    try:
        # A memory map needs the zip form; older files are read whole.
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except MemoryError:
        raise
    except Exception as error:  # a reader fed foreign bytes may raise anything; the file is what is at fault
        fix = "nothing of it was run; fetch it again, or save its tensors alone"
        raise ConfigError(f"{path} cannot be read as weights ({_line(error)}): {fix}") from None
    beside: dict[str, Any] = {}
    wrapped = isinstance(content, dict) and isinstance(content.get("model"), dict)
    if wrapped:
        beside = {key: value for key, value in content.items() if key != "model"}
        content = content["model"]
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{path} holds no state dict: give a dict of tensors, or one under the key `model`")
    odd = [str(name) for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if odd:
        raise ConfigError(f"{path} holds more than tensors ({listing(odd)}): give a file with the state dict alone")
    return StoredTensors({name: LazyTensor.of(tensor) for name, tensor in content.items()}, {}, beside, wrapped)


def write_safetensors(path: Path, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> None:
    """Write `tensors` one after the other to the new file `path`, flushed to disk; the caller renames it into place.

    Raises:
        ConfigError: the disk is full or cannot be written.
    """
    # Widest elements first keeps every tensor aligned without gaps, which the format forbids.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name in order:
        entry = tensors[name]
        end = place + entry.nbytes
        header[name] = {"dtype": _NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    try:
        with open(path, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                tensor = tensors[name].read()
                assert (tuple(tensor.shape), tensor.dtype) == (tensors[name].shape, tensors[name].dtype), name
                if tensor.numel():
                    file.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}): free the disk or give another place") from None


def shards_of(tensors: Mapping[str, LazyTensor], max_bytes: int) -> list[dict[str, LazyTensor]]:
    """`tensors` in order, cut into groups of at most `max_bytes` (0: one group); a larger tensor is a group of its own."""
    groups: list[dict[str, LazyTensor]] = [{}]
    size = 0
    for name, entry in tensors.items():
        if max_bytes and groups[-1] and size + entry.nbytes > max_bytes:
            groups.append({})
            size = 0
        groups[-1][name] = entry
        size += entry.nbytes
    return groups


def equal(left: Tensor, right: Tensor) -> bool:
    """Bit for bit, in shape, type and value: NaN equals itself, 0 and -0 differ."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    flat = [tensor.detach().contiguous().reshape(-1) for tensor in (left, right)]
    return not left.numel() or torch.equal(flat[0].view(torch.uint8), flat[1].view(torch.uint8))


def listing(names: Iterable[str]) -> str:
    """The first names and how many more there are."""
    names = list(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__

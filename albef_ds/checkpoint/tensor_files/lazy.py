"""Lazily read tensors of known shape and type."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from albef_ds.common.errors import WeightsError


@dataclass(frozen=True)
class LazyTensor:
    """A tensor of known shape and dtype that `read` fetches."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> LazyTensor:
        """A tensor that is already in memory."""
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor)

    @property
    def numel(self) -> int:
        """Number of elements."""
        return torch.Size(self.shape).numel()

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.numel * self.dtype.itemsize

    def content(self) -> memoryview | bytes:
        """The tensor's bytes; not a copy if `read` returns a contiguous tensor."""
        tensor = self.read().detach()
        assert (tuple(tensor.shape), tensor.dtype) == (self.shape, self.dtype), (tensor.shape, tensor.dtype)
        return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b""

    def then(
        self, change: Callable[[Tensor], Tensor], shape: tuple[int, ...] | None = None, dtype: torch.dtype | None = None
    ) -> LazyTensor:
        """The tensor after `change`, which gives it `shape` and `dtype` (None: unchanged)."""
        return LazyTensor(shape or self.shape if shape is None else shape, dtype or self.dtype, lambda: change(self.read()))

    def to(self, dtype: torch.dtype) -> LazyTensor:
        """The tensor in another precision; only floating-point tensors change."""
        if not self.dtype.is_floating_point or dtype == self.dtype:
            return self
        return self.then(lambda tensor: tensor.to(dtype), dtype=dtype)


@dataclass(frozen=True)
class StoredTensors:
    """The content of a file or a set of shards."""

    tensors: dict[str, LazyTensor]
    metadata: dict[str, str] = field(default_factory=dict)
    """Metadata of a safetensors file."""
    beside: dict[str, Any] = field(default_factory=dict)
    """A training file's content under other keys than `model` (optimizer, config, epoch)."""
    wrapped: bool = False
    """True if the tensors were under the key `model`."""


class TensorsOnDemand(Mapping[str, Tensor]):
    """Tensors that are read at each access, so that one at a time is in memory."""

    def __init__(self, tensors: Mapping[str, LazyTensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name].read()

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def read_at(
    path: Path,
    start: int,
    size: int,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    check: Callable[[bytearray], None] = lambda _: None,
) -> Callable[[], Tensor]:
    """A function that reads the `size` bytes at `start` and calls `check` with them, which raises WeightsError for damage.

    The function raises WeightsError too if the file has become shorter.
    """

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
                    raise WeightsError(f"{path} became shorter while it was read: write it again")
                done += got
            view.release()
        check(data)
        return torch.frombuffer(data, dtype=dtype).view(shape)

    return read


def equal(left: Tensor, right: Tensor) -> bool:
    """True if the tensors are bitwise equal in shape, type and value: NaN equals itself, 0 and -0 differ."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    flat = [tensor.detach().contiguous().reshape(-1) for tensor in (left, right)]
    return not left.numel() or torch.equal(flat[0].view(torch.uint8), flat[1].view(torch.uint8))


def listing(names: Iterable[str]) -> str:
    """The first four names, and the number of further ones."""
    names = list(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")

"""Reads a checkpoint's file of tensors one at a time; a missing tensor is reported together with the fix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from albef_ds.common.errors import WeightsError
from albef_ds.common.run_files import CONFIG_NAME


class TensorFile(Mapping[str, Tensor]):
    """A file of tensors that are read one at a time. Raises WeightsError if the file is missing or not a safetensors file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = cast(Any, safe_open(path, framework="pt"))
            self.names: set[str] = set(self._file.keys())
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{path} cannot be read ({error}): take another checkpoint") from None

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            config = self.path.with_name(CONFIG_NAME)
            raise WeightsError(f"{self.path} holds no {name}, so it does not fit this run: keep the settings in {config}")
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

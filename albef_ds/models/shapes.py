"""Modules without memory: names and shapes of parameters, where no weights are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_DRAWS = {torch.Tensor.normal_, torch.Tensor.uniform_}


class _NoInitialWeights(TorchFunctionMode):
    """Leaves out initial weights. On the meta device there are none, but drawing them imports torch's compiler, for a second."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _DRAWS or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def without_memory() -> Iterator[None]:
    """Modules that are built in the block have parameters on the meta device."""
    with torch.device("meta"), _NoInitialWeights():
        yield

"""Builds models larger than one rank's memory: ZeRO-3 partitions each module as soon as its constructor returns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import deepspeed
import torch
from torch import nn

from albef_ds.common.errors import ConfigError

_SHAPE = "no dimension or no element, which DeepSpeed does not train: give it one of both, such as torch.zeros(1)"


@contextlib.contextmanager
def partitioned(ds_config: dict[str, Any]) -> Iterator[None]:
    """Modules built inside keep 1/N of each parameter per rank, in the precision and on the device of `ds_config`.

    Write their weights afterwards (`models/random_weights.py`, through `internals.PartitionedParameters`): what a
    constructor does to a submodule's parameters does not reach the partitions. Raises `ConfigError` for a parameter without
    dimensions.
    """
    try:
        with deepspeed.zero.Init(config_dict_or_path=ds_config):
            yield
    except RuntimeError as error:
        if "self.dim() cannot be 0" not in str(error):
            raise
        raise ConfigError(f"a parameter of the task has {_SHAPE}") from None


def check_shapes(task: nn.Module) -> None:
    """Raises `ConfigError` if DeepSpeed cannot train a parameter because of its shape."""
    for name, parameter in task.named_parameters():
        shape = torch.Size(getattr(parameter, "ds_shape", parameter.shape))
        if not shape or not shape.numel():
            raise ConfigError(f"parameter {name} of the task has {_SHAPE}")

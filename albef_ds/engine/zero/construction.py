"""Builds models larger than one rank's memory: ZeRO-3 partitions each module as soon as its constructor returns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import deepspeed


@contextlib.contextmanager
def partitioned(ds_config: dict[str, Any]) -> Iterator[None]:
    """Modules built inside keep 1/N of each parameter per rank, in the precision and on the device of `ds_config`.

    Write their weights afterwards (`models/random_weights.py`, through `internals.PartitionedParameters`): what a
    constructor does to a submodule's parameters does not reach the partitions.
    """
    with deepspeed.zero.Init(config_dict_or_path=ds_config):
        yield

"""Making a model that no rank could hold: under ZeRO-3 each module is cut up as soon as its constructor returns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import deepspeed


@contextlib.contextmanager
def partitioned(ds_config: dict[str, Any]) -> Iterator[None]:
    """Modules made within keep 1/N of each parameter per rank, in the precision and on the device of `ds_config`.

    Their weights are to be written afterwards (`models/random_weights.py`, through `internals.PartitionedParameters`): what
    a constructor does to a submodule's parameters no longer reaches them.
    """
    with deepspeed.zero.Init(config_dict_or_path=ds_config):
        yield

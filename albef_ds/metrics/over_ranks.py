"""Splits work over ranks in batches whose content does not depend on the number of ranks.

Every world size therefore gives bitwise equal results. A rank without rows left repeats the last row, since every rank must enter
the same collectives (sharded weights are gathered in forward passes); repeated rows are dropped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from albef_ds.common import comm


class Modules(Protocol):
    """The part of a module that `eval_mode` uses."""

    def modules(self) -> Iterator[nn.Module]:
        """Yields the module and all its submodules."""

    def eval(self) -> object:
        """Switches to eval mode."""


def map_rows(
    num_rows: int,
    size: int,
    compute: Callable[[Tensor], tuple[Tensor, ...]],
    device: torch.device,
    report: Callable[[int, int], None],
) -> list[Tensor]:
    """Maps `compute` over the rows 0 .. `num_rows` - 1, split over all ranks, and gathers the outputs.

    Args:
        num_rows: total number of rows, at least 1.
        size: rows per call; the last call repeats the last row to have as many.
        compute: rows int64 (size,) on `device` -> outputs (size, ...), with the same shapes in every call.
        device: device of the rows and outputs.
        report: called with (batches done, total batches).

    Returns:
        Each output (num_rows, ...), on every rank.
    """
    size = min(size, num_rows)
    batches, world_size = -(-num_rows // size), comm.world_size()
    outputs = []
    for first in range(0, batches, world_size):
        start = size * (first + comm.rank())
        # Beyond the end the last row is repeated: equal shapes give equal rounding and can be gathered.
        rows = torch.arange(start, start + size, device=device).clamp(max=num_rows - 1)
        outputs.append(compute(rows))
        report(min(first + world_size, batches), batches)
    return [_gather(torch.stack(parts), num_rows) for parts in zip(*outputs, strict=True)]


def _gather(local: Tensor, num_rows: int) -> Tensor:
    """This rank's batches (rounds, size, ...) -> all rows in order."""
    by_rank = comm.all_gather(local).view(comm.world_size(), *local.shape)
    return by_rank.transpose(0, 1).flatten(0, 2)[:num_rows]


@contextlib.contextmanager
def eval_mode(*modules: Modules) -> Iterator[None]:
    """Eval mode within the block. Afterwards every submodule has its own mode again: frozen parts differ from their parents."""
    before = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training

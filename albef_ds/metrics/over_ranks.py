"""Work dealt out to the ranks in batches whose content does not depend on their number.

So every world size gets the same numbers to the last digit. A rank that runs out computes a row again, since every rank
must enter the same collectives (sharded weights are gathered in forward passes); what was computed twice counts once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from albef_ds.common import comm


class Modules(Protocol):
    """What `eval_mode` asks of a module."""

    def modules(self) -> Iterator[nn.Module]:
        """The module and all below it."""

    def eval(self) -> object:
        """Switch to eval mode."""


def deal(
    num_rows: int,
    size: int,
    compute: Callable[[Tensor], tuple[Tensor, ...]],
    device: torch.device,
    report: Callable[[int, int], None],
) -> list[Tensor]:
    """`compute` over the rows 0 .. `num_rows` - 1, all ranks together.

    Args:
        num_rows: rows in all, 1 or more.
        size: rows per call; the last call is filled up with its last row.
        compute: rows int64 (size,) on `device` -> outputs (size, ...), of the same shapes in every call.
        device: where the outputs are.
        report: told (batches done, batches in all).

    Returns:
        Each output (num_rows, ...), on every rank.
    """
    size = min(size, num_rows)
    batches, world_size = -(-num_rows // size), comm.world_size()
    outputs = []
    for first in range(0, batches, world_size):
        start = size * (first + comm.rank())
        # What lies behind the last row is that row again: equal shapes give equal rounding and can be gathered.
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
    """Each submodule gets its own mode back: frozen parts and momentum copies differ from their parents."""
    before = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training

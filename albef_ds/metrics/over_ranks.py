"""Splits work over ranks in batches whose content does not depend on the number of ranks.

Every world size therefore gives bitwise equal results. A rank without rows left repeats the last row, since every rank must enter
the same collectives (sharded weights are gathered in forward passes); what it repeats is dropped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from albef_ds.common import comm

T = TypeVar("T")


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
        compute: rows int64 (size,) on `device` -> outputs (size, ...).
        device: device of the rows and outputs.
        report: called with (batches done, total batches).

    Returns:
        Each output (num_rows, ...), on every rank.
    """
    size = min(size, num_rows)
    # Beyond the end the last row is repeated: equal shapes give equal rounding and can be gathered.
    starts = range(0, num_rows, size)
    batches = [torch.arange(start, start + size, device=device).clamp(max=num_rows - 1) for start in starts]
    return [output[:num_rows] for output in map_batches(batches, compute, report)]


def map_batches(
    batches: Sequence[T], compute: Callable[[T], tuple[Tensor, ...]], report: Callable[[int, int], None]
) -> list[Tensor]:
    """Maps `compute` over `batches`, split over all ranks, and gathers the outputs.

    Args:
        batches: at least one, the same on every rank.
        compute: batch -> outputs (R, ...) of any number of rows R.
        report: called with (batches done, total batches).

    Returns:
        Each output's rows in the order of the batches, on every rank.
    """
    world_size, outputs = comm.world_size(), []
    for first in range(0, len(batches), world_size):
        outputs.append(compute(batches[min(first + comm.rank(), len(batches) - 1)]))
        report(min(first + world_size, len(batches)), len(batches))
    joined = []
    for parts in zip(*outputs, strict=True):
        by_rank = gather_parts(parts)
        in_order = [by_rank[number % world_size][number // world_size] for number in range(len(batches))]
        joined.append(torch.cat(in_order))
    return joined


def gather_parts(parts: Sequence[Tensor]) -> list[list[Tensor]]:
    """Gathers equally many tensors (R, ...) with any number of rows from all ranks: one list per rank, on every rank."""
    if not comm.is_distributed():
        return [list(parts)]
    sizes = comm.all_gather(torch.tensor([[len(part) for part in parts]], device=parts[0].device))
    longest, local = int(sizes.sum(dim=1).max()), torch.cat(list(parts))
    padding = local.new_zeros(longest - len(local), *local.shape[1:])
    gathered = torch.split(comm.all_gather(torch.cat([local, padding])), longest)
    return [list(torch.split(rows[: sum(counts)], counts)) for rows, counts in zip(gathered, sizes.tolist(), strict=True)]


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

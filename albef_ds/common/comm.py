"""torch.distributed for a program that also runs as one process: without a process group every function acts as on one rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# torch 2.14 renamed the collectives on single tensors and warns at every use of the old names.
all_gather_single = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)


def is_distributed() -> bool:
    """Returns whether a process group of more than one rank is initialised."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Returns this process's rank, 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Returns the number of ranks, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def barrier() -> None:
    """Waits for all ranks."""
    if is_distributed():
        dist.barrier()


def all_gather(tensor: Tensor, group: Any = None) -> Tensor:
    """Gathers (B, ...) of equal shape on every rank into (ranks * B, ...) in rank order, without gradient.

    `group` is a process group with this rank; None: all ranks.
    """
    if not is_distributed():
        return tensor.detach()
    tensor = tensor.detach().contiguous()
    output = tensor.new_empty((dist.get_world_size(group) * tensor.shape[0], *tensor.shape[1:]))
    all_gather_single(output, tensor, group=group)
    return output


def all_gather_together(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Gathers several tensors (B, ...) in one message, because on many ranks latency costs more than bytes."""
    return start_all_gather_together(tensors)()


def start_all_gather_together(tensors: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
    """Sends the message of `all_gather_together`, and returns a function that waits for it and returns the gathered tensors."""
    if not is_distributed():
        own = [tensor.detach() for tensor in tensors]
        return lambda: own
    rows = [tensor.detach().reshape(len(tensor), math.prod(tensor.shape[1:])) for tensor in tensors]
    sent = torch.cat([row.contiguous().view(torch.uint8) for row in rows], dim=1)
    widths = [row.shape[1] * row.itemsize for row in rows]
    shapes = [(tensor.dtype, tensor.shape[1:]) for tensor in tensors]
    received = sent.new_empty((world_size() * len(sent), sent.shape[1]))
    work: Any = all_gather_single(received, sent, async_op=True)

    def finish() -> list[Tensor]:
        work.wait()
        return [
            # contiguous() because the slice may be misaligned for this dtype.
            part.contiguous().view(dtype).reshape(-1, *shape)
            for part, (dtype, shape) in zip(torch.split(received, widths, dim=1), shapes, strict=True)
        ]

    return finish


def all_to_all(rows: Tensor, sent_to: list[int], received_from: list[int]) -> Tensor:
    """Returns the rows (sum of `received_from`, ...) that other ranks send to this one, in rank order, without gradient.

    Args:
        rows: (sum of `sent_to`, ...), in the order of the ranks that receive them.
        sent_to: rows for each rank.
        received_from: rows of each rank.
    """
    if not is_distributed():
        return rows.detach()
    received = rows.new_empty((sum(received_from), *rows.shape[1:]))
    dist.all_to_all_single(received, rows.detach().contiguous(), received_from, sent_to)
    return received


def all_reduce_mean(values: dict[str, float], device: torch.device) -> dict[str, float]:
    """Returns the mean over ranks of each number; the keys must be the same on every rank."""
    if not is_distributed() or not values:
        return values
    packed = torch.tensor([values[name] for name in sorted(values)], dtype=torch.float64, device=device)
    dist.all_reduce(packed)
    return dict(zip(sorted(values), (packed / world_size()).tolist(), strict=True))


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sums `tensor` over ranks, in place, without gradient."""
    if is_distributed():
        dist.all_reduce(tensor)
    return tensor


def all_gather_numbers(values: Sequence[int], device: torch.device) -> list[list[int]]:
    """Returns every rank's whole numbers in rank order, in one message."""
    if not is_distributed():
        return [list(values)]
    found: list[list[int]] = all_gather(torch.tensor([list(values)], device=device)).tolist()
    return found


def broadcast_object(value: Any) -> Any:
    """Returns rank 0's small picklable `value` on every rank."""
    if not is_distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def all_gather_objects(value: Any) -> list[Any]:
    """Returns every rank's small picklable `value` in rank order, on every rank."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values

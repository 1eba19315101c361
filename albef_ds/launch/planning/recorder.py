"""Counts the collectives with their bytes, the FLOPs and the operators of a real training step on this rank. No times.

It works with any engine and device, because it watches torch's dispatcher. `communication.py` and `flops.py` predict the counts.
"""

from __future__ import annotations

import contextlib
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from albef_ds.launch.planning.communication import Traffic

_OPERATIONS = {
    "allreduce_": "all_reduce",
    "_allgather_base_": "all_gather",
    "allgather_": "all_gather",
    "allgather_into_tensor_coalesced_": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_": "reduce_scatter",
    "reduce_scatter_tensor_coalesced_": "reduce_scatter",
    "alltoall_base_": "all_to_all",
}


@dataclass
class StepCounts:
    """Counts of a step. `operators` are calls of torch operators other than views."""

    operators: int = 0
    flops: int = 0
    """FLOPs of matrix products, convolutions and attention; a multiply-add is 2."""
    collectives: dict[tuple[str, str, str, int, bool], list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    """(purpose, operation, dtype, ranks of the group or 0 for all, whether apart) -> [bytes of the whole tensors, calls]."""

    @property
    def traffic(self) -> list[Traffic]:
        """The collectives in alphabetical order."""
        found = sorted(self.collectives.items())
        return [Traffic(*key[:3], num_bytes, calls, ranks=key[3], apart=key[4]) for key, (num_bytes, calls) in found]


def flop_counter() -> FlopCounterMode:
    """Returns torch's FLOP counter, extended by the CPU's fused attention."""

    def forward(query: Any, key: Any, value: Any, *rest: Any, **named: Any) -> int:
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    def backward(gradient: Any, query: Any, key: Any, value: Any, *rest: Any, **named: Any) -> int:
        return int(sdpa_backward_flop_count(gradient, query, key, value))  # type: ignore[no-untyped-call]

    fused = torch.ops.aten
    mapping = {
        fused._scaled_dot_product_flash_attention_for_cpu: forward,
        fused._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    return FlopCounterMode(display=False, custom_mapping=mapping)


@contextlib.contextmanager
def recorded() -> Iterator[StepCounts]:
    """Counts everything that runs in the block, backward passes included."""
    counts = StepCounts()
    # The FLOP counter decomposes some operators: entered first, it sees each one after the recorder.
    with flop_counter() as flops, _Recorder(counts):
        yield counts
    counts.flops = flops.get_total_flops()


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, counts: StepCounts) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self._count_collective(func, args)
        elif not func.is_view:
            self.counts.operators += 1
        return func(*args, **(kwargs or {}))

    def _count_collective(self, func: Any, args: Any) -> None:
        name = func.overloadpacket.__name__
        operation = _OPERATIONS.get(name, name.strip("_"))
        # Of an all-to-all what arrives counts: the first argument is the output.
        tensors = max((list(_tensors(arg)) for arg in args[: 1 if operation == "all_to_all" else None]), key=_num_bytes)
        dtype = str(tensors[0].dtype).removeprefix("torch.") if tensors else ""
        numel = sum(tensor.numel() for tensor in tensors)
        ranks, apart = _ranks(args)
        entry = self.counts.collectives[_purpose(operation, numel), operation, dtype, ranks, apart]
        entry[0] += _num_bytes(tensors)
        entry[1] += 1


def _ranks(args: Any) -> tuple[int, bool]:
    """Returns the ranks of a collective's group, 0 for all, and whether they are not consecutive."""
    group = next(arg for arg in args if isinstance(arg, torch.ScriptObject))  # the first one is the process group
    ranks = dist.get_process_group_ranks(dist.ProcessGroup.unbox(group))
    return len(ranks) % dist.get_world_size(), ranks[-1] - ranks[0] >= len(ranks)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _num_bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _purpose(operation: str, numel: int) -> str:
    """Returns the purpose by the innermost caller that is the momentum model, a task (through `comm`) or DeepSpeed."""
    if numel <= 1 and operation != "all_to_all":
        return "scalars"
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith("albef_ds.engine.zero.momentum"):
            return "momentum"
        if module == "albef_ds.common.comm":
            return "scalars" if operation == "all_gather" and numel <= 2 * dist.get_world_size() else "features"
        if module.startswith("deepspeed.runtime"):
            return "parameters" if operation == "all_gather" else "gradients"
    return "other"

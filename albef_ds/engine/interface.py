"""What runs an optimizer step: the interface, and the plain reference for one process.

`LocalEngine` is the yardstick that every other engine is tested against.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from albef_ds.tasks.base import Task

STUDENT = "student"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did on this rank: `losses` and `metrics` are means over its micro-batches."""

    losses: dict[str, float]
    metrics: dict[str, float]
    grad_norm: float
    """Global L2 norm before clipping."""
    skipped: bool
    """The optimizer did not move (overflow, non-finite numbers); momentum and queue did not either."""


class Engine(Protocol):
    """Forward, backward, step, momentum update for one task."""

    task: Task
    device: torch.device
    optimizer_name: str
    """The implementation of AdamW that was chosen."""

    def train_step(self, micro_batches: Sequence[Any], schedule: Mapping[str, float], learning_rate: float) -> StepResult:
        """One optimizer step over this rank's micro-batches; all ranks call it together."""
        ...

    def dry_run(self, batch: Any, schedule: Mapping[str, float]) -> None:
        """Forward and backward of a mock batch that leaves no trace in weights, optimizer, queue or generators."""
        ...

    def full_state_dict(self) -> dict[str, Tensor]:
        """The student's parameters, whole, in fp32, on the CPU, under the task's names; all ranks call it, rank 0 gets them."""
        ...

    def tensors(self, part: str) -> Iterator[tuple[str, Tensor]]:
        """Name and whole tensor, one parameter at a time: `STUDENT` weights, or one of AdamW's `MOMENTS`.

        Weights are of every parameter, moments of those that have some. On the engine's device and, under reduced precision, in
        fp32. All ranks walk through it together, to the end.
        """
        ...

    def load_tensors(self, part: str, stored: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave, in a run of any number of ranks; read one at a time."""
        ...

    def counters(self) -> dict[str, float]:
        """What else a checkpoint needs of the engine: `optimizer_steps` and, where there is one, the loss scale."""
        ...

    def load_counters(self, values: dict[str, float]) -> None:
        """Put back what `counters` gave, after the moments."""
        ...


@contextlib.contextmanager
def generators_kept(device: torch.device) -> Iterator[None]:
    """Give back the random generators' states (CPU, and `device` if it is a GPU) after the block."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def mean_scalars(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Mean of each scalar over the micro-batches, as numbers; one device read for all of them."""
    if not parts or not parts[0]:
        return {}
    names = list(parts[0])
    stacked = torch.stack([torch.stack([part[name].detach().double() for name in names]) for part in parts])
    return dict(zip(names, stacked.mean(dim=0).tolist(), strict=True))


def nan_unless_finite(loss: Tensor) -> Tensor:
    """`loss`, whose backward pass gives NaN throughout if it is not finite.

    A loss can be infinite with finite gradients. Its NaN reaches all ranks with the gradients, so they skip the step together
    without another exchange. The factor is exactly 1 otherwise.
    """
    return loss * (1.0 + (loss - loss).detach())


def finish_step(task: Task, skipped: bool) -> None:
    """Everything that must move with the optimizer or not at all."""
    if skipped:
        task.after_skipped_step()
    else:
        if task.has_momentum:
            task.momentum.update()
        task.after_step()

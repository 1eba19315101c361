"""The interface of an engine, which runs optimizer steps, and the functions that all engines share."""

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
    """Result of one optimizer step on this rank: `losses` and `metrics` are means over its micro-batches."""

    losses: dict[str, float]
    metrics: dict[str, float]
    grad_norm: float
    """Global L2 norm before clipping."""
    skipped: bool
    """True if overflow or non-finite numbers prevented the update; momentum model and queue are then unchanged too."""


class Engine(Protocol):
    """Forward pass, backward pass, optimizer step and momentum update for one task."""

    task: Task
    device: torch.device
    optimizer_name: str
    """The implementation of AdamW that was chosen."""

    def train_step(self, micro_batches: Sequence[Any], schedule: Mapping[str, float], learning_rate: float) -> StepResult:
        """Runs one optimizer step over this rank's micro-batches; all ranks call it together."""
        ...

    def dry_run(self, batch: Any, schedule: Mapping[str, float]) -> None:
        """Runs forward and backward on a mock batch; weights, optimizer, queue and generators are unchanged afterwards."""
        ...

    def full_state_dict(self) -> dict[str, Tensor]:
        """Returns the student's full parameters in fp32 on the CPU by the task's names, on rank 0; all ranks call it together."""
        ...

    def tensors(self, part: str) -> Iterator[tuple[str, Tensor]]:
        """Yields name and full tensor, one parameter at a time: `STUDENT` weights, or one of AdamW's `MOMENTS`.

        Weights cover every parameter, moments only those that have some. Tensors are on the engine's device, under reduced
        precision in fp32. All ranks iterate together, to the end.
        """
        ...

    def load_tensors(self, part: str, stored: Mapping[str, Tensor]) -> None:
        """Restores what `tensors` yielded, in a run of any number of ranks; `stored` is read one tensor at a time."""
        ...

    def counters(self) -> dict[str, float]:
        """Returns the engine's other state for a checkpoint: `optimizer_steps` and, if there is one, the loss scale."""
        ...

    def load_counters(self, values: dict[str, float]) -> None:
        """Restores what `counters` returned; called after the moments are loaded."""
        ...


@contextlib.contextmanager
def generators_kept(device: torch.device) -> Iterator[None]:
    """Restores the states of the random generators (CPU, and `device` if it is a GPU) after the block."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def mean_scalars(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Returns the mean of each scalar over the micro-batches; all of them are read from the device at once."""
    if not parts or not parts[0]:
        return {}
    names = list(parts[0])
    stacked = torch.stack([torch.stack([part[name].detach().double() for name in names]) for part in parts])
    return dict(zip(names, stacked.mean(dim=0).tolist(), strict=True))


def nan_unless_finite(loss: Tensor) -> Tensor:
    """Returns `loss` times a factor that is 1 if it is finite, else NaN, so that every gradient becomes NaN.

    A loss can be infinite with finite gradients. The NaN reaches all ranks with the gradients, so they skip the step together
    without another exchange.
    """
    return loss * (1.0 + (loss - loss).detach())


def finish_step(task: Task, skipped: bool) -> None:
    """Updates the momentum model and the task after an optimizer step, or neither if it was skipped."""
    if skipped:
        task.after_skipped_step()
    else:
        if task.has_momentum:
            task.momentum.update()
        task.after_step()

"""What runs an optimizer step: the interface, and the plain reference for one process.

`LocalEngine` is the yardstick that every other engine is tested against.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from albef_ds.config.schema import OptimConfig
from albef_ds.errors import ConfigError
from albef_ds.optim import parameter_groups
from albef_ds.task import Task


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

    def train_step(self, micro_batches: Sequence[Any], schedule: Mapping[str, float], learning_rate: float) -> StepResult:
        """One optimizer step over this rank's micro-batches; all ranks call it together."""
        ...

    def dry_run(self, batch: Any, schedule: Mapping[str, float]) -> None:
        """Forward and backward of a mock batch that leaves no trace in weights, optimizer, queue or generators."""
        ...

    def full_state_dict(self) -> dict[str, Tensor]:
        """The student's parameters, whole, in fp32, on the CPU, under the task's names; all ranks call it, rank 0 gets them."""
        ...

    def save(self, folder: Path) -> None:
        """Write optimizer state (and what belongs to it) into the new `folder`; all ranks call it."""
        ...

    def load(self, folder: Path) -> None:
        """Restore weights and optimizer from what `save` wrote at the same number of ranks.

        Raises:
            ConfigError: a file is missing or damaged, or holds another model.
        """
        ...


@contextlib.contextmanager
def generators_kept(device: torch.device) -> Iterator[None]:
    """Give back the random generators' states (CPU, and `device` if it is a GPU) after the block."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def read_torch_file(path: Path, device: torch.device | str = "cpu") -> Any:
    """What `torch.save` wrote to `path`, tensors and plain values only; `ConfigError` if it is missing or damaged."""
    try:
        return torch.load(path, weights_only=True, map_location=device)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ConfigError(f"{path} cannot be read ({first_line(error)}): take another checkpoint") from None


def first_line(error: Exception) -> str:
    """The first line of an error's text: torch's and DeepSpeed's run over pages."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(" :.")


def mean_scalars(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Mean of each scalar over the micro-batches, as numbers; one device read for all of them."""
    if not parts or not parts[0]:
        return {}
    names = list(parts[0])
    stacked = torch.stack([torch.stack([part[name].detach().double() for name in names]) for part in parts])
    return dict(zip(names, stacked.mean(dim=0).tolist(), strict=True))


def finish_step(task: Task, skipped: bool) -> None:
    """Everything that must move with the optimizer or not at all."""
    if skipped:
        task.after_skipped_step()
    else:
        if "momentum" in task.outside:
            task.momentum.update()
        task.after_step()


class LocalEngine:
    """Plain torch in one process: fp32 (or fp64) weights, optional bf16 autocast, torch's AdamW."""

    def __init__(
        self, task: Task, config: OptimConfig, device: torch.device, *, autocast: bool = False, compat: bool = False
    ) -> None:
        self.task = task.to(device)
        self.task.move_outside(device)
        self.device = device
        self.clip_norm = config.clip_norm
        self._autocast = autocast
        groups = parameter_groups(task, config, compat=compat)
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), eps=config.eps, foreach=True)

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast)

    def _forward_backward(
        self, batch: Any, schedule: Mapping[str, float], share: float
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        with self._precision():
            losses, metrics = self.task(batch, **schedule)
        (self.task.total(losses) * share).backward()
        return losses, metrics

    def train_step(self, micro_batches: Sequence[Any], schedule: Mapping[str, float], learning_rate: float) -> StepResult:
        """See `Engine.train_step`."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad()
        parts = [self._forward_backward(batch, schedule, 1.0 / len(micro_batches)) for batch in micro_batches]
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm or float("inf"), foreach=True)
        skipped = not bool(torch.isfinite(norm))
        if not skipped:
            self.optimizer.step()
            with torch.no_grad():
                for parameter, low, high in self.task.bounded_parameters():
                    parameter.clamp_(low, high)
        finish_step(self.task, skipped)
        return StepResult(mean_scalars([p[0] for p in parts]), mean_scalars([p[1] for p in parts]), float(norm), skipped)

    def dry_run(self, batch: Any, schedule: Mapping[str, float]) -> None:
        """See `Engine.dry_run`."""
        with generators_kept(self.device):
            self._forward_backward(batch, schedule, 1.0)
        self.optimizer.zero_grad()
        self.task.after_skipped_step()

    def full_state_dict(self) -> dict[str, Tensor]:
        """See `Engine.full_state_dict`."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self.task.named_parameters()}

    def save(self, folder: Path) -> None:
        """See `Engine.save`."""
        folder.mkdir(parents=True)
        torch.save({"task": self.task.state_dict(), "optimizer": self.optimizer.state_dict()}, folder / "local.pt")

    def load(self, folder: Path) -> None:
        """See `Engine.load`."""
        state = read_torch_file(folder / "local.pt", self.device)
        try:
            self.task.load_state_dict(state["task"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{folder / 'local.pt'} does not fit this run ({first_line(error)}): keep the settings in "
                f"{folder.parent / 'config.json'}"
            ) from None

"""The plain single-process engine: the reference that every other engine is tested against."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from albef_ds.config.schema import OptimConfig
from albef_ds.engine.adamw import AdamW
from albef_ds.engine.interface import STUDENT, Engine, StepResult, finish_step, generators_kept, mean_scalars, nan_unless_finite
from albef_ds.engine.optim import Trained, parameter_groups, set_learning_rate
from albef_ds.tasks.base import Task


class LocalEngine(Engine):
    """Plain torch in one process: fp32 (or fp64) weights, optional bf16 autocast, torch's AdamW."""

    optimizer_name = "torch"

    def __init__(
        self, task: Task, config: OptimConfig, device: torch.device, *, autocast: bool = False, compat: bool = False
    ) -> None:
        self.task = task.to(device)
        self.task.move_outside(device)
        self.device = device
        self.clip_norm = config.clip_norm
        self._autocast = autocast
        self._trained = Trained(task)
        groups = parameter_groups(task, config, compat=compat)
        self.optimizer = AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast)

    def _forward_backward(
        self, batch: Any, schedule: Mapping[str, float], share: float
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        with self._precision():
            losses, metrics = self.task(batch, **schedule)
        torch.autograd.backward(nan_unless_finite(self.task.total(losses)) * share)
        return losses, metrics

    def train_step(self, micro_batches: Sequence[Any], schedule: Mapping[str, float], learning_rate: float) -> StepResult:
        self._trained.check()
        set_learning_rate(self.optimizer.param_groups, learning_rate)
        self.optimizer.zero_grad()
        parts = [self._forward_backward(batch, schedule, 1.0 / len(micro_batches)) for batch in micro_batches]
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for parameter in parameters:
            if parameter.grad is None:  # unused in the loss: 0 as in DeepSpeed's flat groups, and AdamW counts the step
                parameter.grad = torch.zeros_like(parameter)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
        skipped = not bool(torch.isfinite(norm))
        if not skipped:
            if self.clip_norm:
                nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm, foreach=True)
            self.optimizer.step()
            with torch.no_grad():
                for parameter, low, high in self.task.bounded_parameters():
                    parameter.clamp_(low, high)
        finish_step(self.task, skipped)
        return StepResult(mean_scalars([p[0] for p in parts]), mean_scalars([p[1] for p in parts]), float(norm), skipped)

    def dry_run(self, batch: Any, schedule: Mapping[str, float]) -> None:
        with generators_kept(self.device):
            self._forward_backward(batch, schedule, 1.0)
        self.optimizer.zero_grad()
        self.task.after_skipped_step()

    def full_state_dict(self) -> dict[str, Tensor]:
        return {name: parameter.detach().cpu().clone() for name, parameter in self.task.named_parameters()}

    def tensors(self, part: str) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.task.named_parameters():
            if part == STUDENT:
                yield name, parameter.detach()
            elif parameter in self.optimizer.state:
                yield name, self.optimizer.state[parameter][part]

    @torch.no_grad()
    def load_tensors(self, part: str, stored: Mapping[str, Tensor]) -> None:
        for name, parameter in self.task.named_parameters():
            if part == STUDENT:
                parameter.copy_(stored[name])
            elif name in stored and parameter.requires_grad:
                state = self.optimizer.state[parameter]
                state.setdefault("step", torch.tensor(0.0, device=parameter.device))
                state[part] = stored[name].to(parameter.device, parameter.dtype, copy=True)

    def counters(self) -> dict[str, float]:
        return {"optimizer_steps": max((float(state["step"]) for state in self.optimizer.state.values()), default=0.0)}

    def load_counters(self, values: dict[str, float]) -> None:
        for state in self.optimizer.state.values():
            state["step"].fill_(values["optimizer_steps"])

"""The DeepSpeed engine: ZeRO stages 0 to 3 behind the same interface as `LocalEngine`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import deepspeed
import torch
from torch import Tensor

from albef_ds.common.errors import ConfigError
from albef_ds.config.schema import RunConfig
from albef_ds.engine.interface import STUDENT, Engine, StepResult, finish_step, generators_kept, mean_scalars, nan_unless_finite
from albef_ds.engine.optim import Trained, parameter_groups, set_learning_rate
from albef_ds.engine.zero import internals, optimizer_state
from albef_ds.engine.zero.construction import check_shapes
from albef_ds.engine.zero.optimizers import build_optimizer, choose
from albef_ds.models.compilation import UNIMODAL_BLOCKS
from albef_ds.tasks.base import Task


def is_smallest_loss_scale(error: Exception) -> bool:
    """Returns whether DeepSpeed raised `error`, a bare `Exception`, because its loss scale cannot fall any further."""
    return type(error) is Exception and "loss scale already at minimum" in str(error)


class ZeroEngine(Engine):
    """One task under DeepSpeed. State that the task keeps outside its module tree (momentum, queue) is not managed by it."""

    def __init__(self, task: Task, config: RunConfig, ds_config: dict[str, Any], device: torch.device) -> None:
        self.task = task
        self.device = device
        self.stage = config.engine.stage
        self.clip_norm = config.optim.clip_norm
        self.optimizer_name = choose(config.optim.name, device)
        check_shapes(task)
        self._trained = Trained(task)
        optimizer = build_optimizer(parameter_groups(task, config.optim, compat=config.task.compat), config.optim, device)
        if config.compute.compile and self.stage == 3:
            # As leaf modules they are gathered as a whole; hooks inside them would break their compiled graphs.
            deepspeed.utils.set_z3_leaf_modules(task, list(UNIMODAL_BLOCKS))
        internals.import_muon_uncompiled()
        self.engine, *_ = deepspeed.initialize(model=task, optimizer=optimizer, config=ds_config)
        if config.compute.compile:
            internals.use_torchs_linear()
        task.move_outside(device)
        internals.check_gradients_in_every_precision(self.engine)
        internals.send_scalars_together(self.engine)
        internals.link_masters(self.engine)
        internals.repair_stage_0(self.engine)
        self.accumulation_steps = ds_config["gradient_accumulation_steps"]

    def _forward_backward(self, batch: Any, schedule: Mapping[str, float], scale: float) -> tuple[dict[str, Tensor], ...]:
        losses, metrics = self.engine(batch, **schedule)
        self.engine.backward(nan_unless_finite(self.task.total(losses).float()) * scale)
        return losses, metrics

    def train_step(self, micro_batches: Sequence[Any], schedule: Mapping[str, float], learning_rate: float) -> StepResult:
        assert len(micro_batches) == self.accumulation_steps, "the loader and DeepSpeed disagree on accumulation"
        self._trained.check()
        set_learning_rate(self.engine.optimizer.param_groups, learning_rate)
        parts = []
        grad_norm = 0.0
        skipped = False
        scale = internals.loss_scale(self.engine)
        for number, batch in enumerate(micro_batches, start=1):
            parts.append(self._forward_backward(batch, schedule, scale))
            if number == len(micro_batches) and not self._is_zero_optimizer:
                grad_norm = self._plain_grad_norm()
                skipped = not math.isfinite(grad_norm)
            if skipped:
                internals.skip_step(self.engine)
            else:
                self._engine_step()
        skipped = skipped or not self.engine.was_step_applied()
        if self._is_zero_optimizer:
            grad_norm = internals.grad_norm(self.engine, scale)
        if skipped and internals.is_smallest_stage_0_scale(scale, self.engine):
            raise self._endless_overflow()
        if not skipped:
            internals.raise_loss_scale(self.engine)
            for parameter, low, high in self.task.bounded_parameters():
                internals.clamp(parameter, low, high)
        finish_step(self.task, skipped)
        return StepResult(mean_scalars([p[0] for p in parts]), mean_scalars([p[1] for p in parts]), grad_norm, skipped)

    def _engine_step(self) -> None:
        try:
            self.engine.step()
        except Exception as error:
            if not is_smallest_loss_scale(error):
                raise
            raise self._endless_overflow() from None

    @staticmethod
    def _endless_overflow() -> ConfigError:
        return ConfigError(
            "engine.precision=fp16 overflows even at the smallest loss scale, 1: use engine.precision=bf16, or lower "
            "optim.learning_rate"
        )

    @property
    def _is_zero_optimizer(self) -> bool:
        return hasattr(self.engine.optimizer, "loss_scaler") or hasattr(self.engine.optimizer, "_global_grad_norm")

    def _plain_grad_norm(self) -> float:
        # Stage 0 in fp32 runs the bare optimizer: every rank has the full gradients, already averaged.
        grads = [p.grad for p in self.task.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads))

    def dry_run(self, batch: Any, schedule: Mapping[str, float]) -> None:
        """See `Engine.dry_run`. The loss is scaled by 0, so the accumulated gradients stay 0."""
        with generators_kept(self.device):
            self._forward_backward(batch, schedule, 0.0)
        self.engine.optimizer.zero_grad()
        self.task.after_skipped_step()

    def full_state_dict(self) -> dict[str, Tensor]:
        return {name: optimizer_state.full_weights(parameter).cpu() for name, parameter in self.task.named_parameters()}

    def tensors(self, part: str) -> Iterator[tuple[str, Tensor]]:
        """See `Engine.tensors`. At most one parameter is gathered at a time."""
        moments = part != STUDENT and optimizer_state.has_moments(self.engine)
        if moments:
            optimizer_state.link_moments(self.engine)
        for name, parameter in self.task.named_parameters():
            if part == STUDENT:
                yield name, optimizer_state.full_weights(parameter)
            elif moments and parameter.requires_grad:
                yield name, optimizer_state.full_moment(self.engine, parameter, part)

    def load_tensors(self, part: str, stored: Mapping[str, Tensor]) -> None:
        if part != STUDENT and stored:
            optimizer_state.prepare_moments(self.engine)
        for name, parameter in self.task.named_parameters():
            if part == STUDENT:
                optimizer_state.set_weights(parameter, stored[name])
            elif name in stored and parameter.requires_grad:
                optimizer_state.set_moment(self.engine, parameter, part, stored[name])

    def counters(self) -> dict[str, float]:
        return optimizer_state.counters(self.engine)

    def load_counters(self, values: dict[str, float]) -> None:
        optimizer_state.set_counters(self.engine, values)

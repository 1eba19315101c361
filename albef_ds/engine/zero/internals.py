"""Every use of DeepSpeed that is not its public interface, pinned by tests/engine/zero/test_internals.py (deepspeed 0.19).

DeepSpeed is imported where a parameter is known to be its own: the sharded momentum copy runs under the plain engine without it.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from albef_ds.models.parameters import WholeParameters


def is_partitioned(parameter: nn.Parameter) -> bool:
    """Whether ZeRO-3 keeps only this rank's part of the parameter."""
    return hasattr(parameter, "ds_id")


def import_muon_uncompiled() -> None:
    """Import DeepSpeed's Muon before DeepSpeed does, which asks whether our optimizer is one: it compiles Muon on import.

    That would load torch's whole compiler into every rank, which takes over a second and is never used.
    """
    from deepspeed.runtime import compiler  # optional package, see above

    compiling = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = compiling


def check_gradients_in_every_precision(engine: Any) -> None:
    """Make ZeRO-1/2 skip a step with non-finite gradients in fp32 too; by itself it looks in fp16 and bf16 only."""
    if hasattr(engine.optimizer, "check_grad_overflow"):
        engine.optimizer.check_grad_overflow = True


def skip_step(engine: Any) -> None:
    """Take the place of `engine.step()` at stage 0 in fp32, whose bare optimizer would follow gradients that are not finite."""
    engine.zero_grad()
    engine.micro_steps += 1


def link_masters(engine: Any) -> None:
    """Tell the parameters their fp32 masters at stage 0 in fp16 and bf16, where DeepSpeed leaves no link to them."""
    if engine.zero_optimization_stage() > 0:
        return
    optimizer = engine.optimizer
    for number, group in enumerate(getattr(optimizer, "fp16_groups", [])):
        if hasattr(optimizer, "fp32_groups"):
            masters = optimizer.fp32_groups[number]
        else:
            masters = torch.split(optimizer.fp32_groups_flat[number].detach(), [parameter.numel() for parameter in group])
        for parameter, master in zip(group, masters, strict=True):
            parameter._fp32_master = master.detach().view(parameter.shape)


def _stage_0_in_half_precision(engine: Any) -> bool:
    return engine.zero_optimization_stage() == 0 and hasattr(engine.optimizer, "fp16_groups")


def repair_stage_0(engine: Any) -> None:
    """Make DeepSpeed's optimizer at stage 0 in bf16 and fp16 take the steps of AdamW; nothing at other stages.

    When it is made it takes a step with gradients of 0, so AdamW's bias correction would be one step ahead: that step is
    forgotten. It also raises the loss scale before it divides the gradients by it: the rise waits for `raise_loss_scale`.
    """
    if not _stage_0_in_half_precision(engine):
        return
    optimizer = engine.optimizer
    optimizer.optimizer.state.clear()
    for group in optimizer.optimizer.param_groups:
        if "step" in group:  # apex and DeepSpeed count per group
            group["step"] = 0
    lower = optimizer._update_scale
    optimizer._update_scale = lambda skip: lower(True) if skip else None


def loss_scale(engine: Any) -> float:
    """What the loss is to be multiplied with before `engine.backward`: not 1 at stage 0 in fp16, where DeepSpeed does not."""
    return float(engine.optimizer.loss_scale_config.cur_scale) if _stage_0_in_half_precision(engine) else 1.0


def raise_loss_scale(engine: Any) -> None:
    """After a step that was taken at stage 0: let the dynamic loss scale rise when its time has come."""
    if _stage_0_in_half_precision(engine):
        type(engine.optimizer)._update_scale(engine.optimizer, False)


def is_smallest_stage_0_scale(scale: float, engine: Any) -> bool:
    """Whether a dynamic loss scale at stage 0 cannot fall below `scale`; the other stages raise by themselves."""
    if not _stage_0_in_half_precision(engine):
        return False
    config = engine.optimizer.loss_scale_config
    return bool(config.use_grad_scaling and config.dynamic_loss_scale and scale <= config.min_loss_scale)


def grad_norm(engine: Any, scale: float) -> float:
    """Global norm of the last step's gradients before clipping; `scale` is the loss scale that they were computed with."""
    norm = float(engine.get_global_grad_norm() or 0.0)
    unfused = _stage_0_in_half_precision(engine) and hasattr(engine.optimizer, "fp32_groups")  # its norm is of scaled gradients
    return norm / scale if unfused else norm


@torch.no_grad()
def clamp(parameter: nn.Parameter, low: float, high: float) -> None:
    """Clamp a small parameter on the fp32 master and on the copy that the forward sees; all ranks call it together."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_set_full_fp32_param  # optional package, see above

    if not is_partitioned(parameter):
        # Every rank holds the whole low-precision copy, equal everywhere: no communication unless a bound is crossed.
        if bool(((parameter >= low) & (parameter <= high)).all()):
            return
        if hasattr(parameter, "_hp_mapping"):
            master: Tensor = safe_get_full_fp32_param(parameter)
            safe_set_full_fp32_param(parameter, master.clamp(low, high))
        elif hasattr(parameter, "_fp32_master"):
            parameter._fp32_master.clamp_(low, high)
        parameter.clamp_(low, high)
        return
    full: Tensor = safe_get_full_fp32_param(parameter)
    if bool(((full < low) | (full > high)).any()):
        full.clamp_(low, high)
        safe_set_full_fp32_param(parameter, full)
        # DeepSpeed sets the master alone; the copies would follow only with the next step.
        parameter.ds_tensor.data.copy_(local_part(parameter))  # type: ignore[attr-defined]
        if parameter.numel() == full.numel():  # kept whole between uses, as small parameters are
            parameter.copy_(full.view_as(parameter))


def local_part(parameter: nn.Parameter) -> Tensor:
    """This rank's part of a ZeRO-3 parameter, flat, trailing padding included (uninitialised memory).

    The fp32 master once DeepSpeed has made its optimizer; before that, and of a frozen parameter, the part in the
    parameter's own precision.
    """
    if hasattr(parameter, "_z3_optimizer") and parameter.requires_grad:
        part: Tensor = parameter._z3_optimizer.get_local_fp32_param(parameter)
    else:
        part = parameter.ds_tensor  # type: ignore[attr-defined]
    return part.detach().reshape(-1)


class PartitionedParameters(WholeParameters):
    """Access to parameters of which ZeRO-3 keeps this rank's part, beside whole ones."""

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        """See `ParameterAccess.shape`."""
        return torch.Size(getattr(parameter, "ds_shape", parameter.shape))

    @torch.no_grad()
    def write(self, parameter: nn.Parameter, weights: Tensor) -> None:
        """See `ParameterAccess.write`. Before DeepSpeed's optimizer exists: afterwards it holds masters of its own."""
        if not is_partitioned(parameter):
            super().write(parameter, weights)
            return
        part: Tensor = parameter.ds_tensor.data.reshape(-1)  # type: ignore[attr-defined]
        rank = parameter.ds_process_group.rank()  # type: ignore[attr-defined]
        own = weights.reshape(-1)[rank * part.numel() : (rank + 1) * part.numel()]
        part[: own.numel()].copy_(own)


def full_master(parameter: nn.Parameter) -> Tensor:
    """The whole parameter in fp32, from the master weights where DeepSpeed keeps any; all ranks call it together."""
    if hasattr(parameter, "_fp32_master"):
        master: Tensor = parameter._fp32_master
        return master.clone()
    if is_partitioned(parameter) or getattr(parameter, "_hp_mapping", None) is not None or hasattr(parameter, "_dp_group"):
        from deepspeed.utils import safe_get_full_fp32_param  # optional package, see above

        full: Tensor | None = safe_get_full_fp32_param(parameter)
        if full is not None:
            return full.detach().clone()
    return parameter.detach().float().clone()

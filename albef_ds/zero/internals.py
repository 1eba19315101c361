"""Every use of DeepSpeed that is not its public interface, pinned by tests/zero/test_internals.py (deepspeed 0.19)."""

from __future__ import annotations

from typing import Any

import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_set_full_fp32_param
from torch import Tensor, nn


def is_partitioned(parameter: nn.Parameter) -> bool:
    """Whether ZeRO-3 keeps only this rank's part of the parameter."""
    return hasattr(parameter, "ds_id")


def check_gradients_in_every_precision(engine: Any) -> None:
    """Make ZeRO-1/2 skip a step with non-finite gradients in fp32 too; by itself it looks in fp16 and bf16 only."""
    if hasattr(engine.optimizer, "check_grad_overflow"):
        engine.optimizer.check_grad_overflow = True


@torch.no_grad()
def clamp(parameter: nn.Parameter, low: float, high: float) -> None:
    """Clamp a small parameter on the fp32 master and on the copy that the forward sees; all ranks call it together."""
    if not is_partitioned(parameter):
        # Every rank holds the whole low-precision copy, equal everywhere: no communication unless a bound is crossed.
        if low <= float(parameter.detach().min()) and float(parameter.detach().max()) <= high:
            return
        if hasattr(parameter, "_hp_mapping"):
            master: Tensor = safe_get_full_fp32_param(parameter)
            safe_set_full_fp32_param(parameter, master.clamp(low, high))
        parameter.clamp_(low, high)
        return
    full: Tensor = safe_get_full_fp32_param(parameter)
    if bool(((full < low) | (full > high)).any()):
        safe_set_full_fp32_param(parameter, full.clamp(low, high))


def local_part(parameter: nn.Parameter) -> Tensor:
    """This rank's part of a ZeRO-3 parameter, flat, trailing padding included (uninitialised memory).

    The fp32 master once DeepSpeed has made its optimizer, before that the part in the parameter's own precision.
    """
    if hasattr(parameter, "_z3_optimizer"):
        part: Tensor = parameter._z3_optimizer.get_local_fp32_param(parameter)
    else:
        part = parameter.ds_tensor  # type: ignore[attr-defined]
    return part.detach().reshape(-1)


def full_master(parameter: nn.Parameter) -> Tensor:
    """The whole parameter in fp32, from the master weights where DeepSpeed keeps any; all ranks call it together."""
    if is_partitioned(parameter) or getattr(parameter, "_hp_mapping", None) is not None or hasattr(parameter, "_dp_group"):
        full: Tensor | None = safe_get_full_fp32_param(parameter)
        if full is not None:
            return full.detach().clone()
    return parameter.detach().float().clone()

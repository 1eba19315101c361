"""Uses of DeepSpeed's private interface, pinned by tests/engine/zero/test_internals.py (deepspeed 0.19).

`optimizer_state.py` has the others. Functions import DeepSpeed only for its own parameters: the sharded momentum model also
runs under the plain engine, without DeepSpeed.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from albef_ds.models.parameters import WholeParameters


def is_partitioned(parameter: nn.Parameter) -> bool:
    """Returns whether ZeRO-3 keeps only this rank's part of the parameter."""
    return hasattr(parameter, "ds_id")


def import_muon_uncompiled() -> None:
    """Imports DeepSpeed's Muon without compiling it, before DeepSpeed imports it to check the optimizer's type.

    Compiling would load torch's compiler into every rank, which takes over a second and is never used.
    """
    from deepspeed.runtime import compiler  # optional package, see above

    compiling = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = compiling


def use_torchs_linear() -> None:
    """Undoes ZeRO-3's replacement of `torch.nn.functional.linear`, which stays for the whole process.

    Its gradients are 0 in compiled blocks with torch 2.11. The replacement saves memory where a weight is not a leaf tensor,
    which no block has.
    """
    from deepspeed.runtime.zero.partition_parameters import InsertPostInitMethodToModuleSubClasses  # optional package, see above

    torch.nn.functional.linear = getattr(InsertPostInitMethodToModuleSubClasses, "linear_bk", torch.nn.functional.linear)


def check_gradients_in_every_precision(engine: Any) -> None:
    """Makes ZeRO-1/2 skip a step with non-finite gradients in fp32 too; by default it checks in fp16 and bf16 only."""
    if hasattr(engine.optimizer, "check_grad_overflow"):
        engine.optimizer.check_grad_overflow = True


def send_scalars_together(engine: Any) -> None:
    """Makes the gradients' norm and the check for non-finite ones one message at stages 1 to 3, not one per group and flag.

    A non-finite gradient makes the norm of all groups non-finite, which DeepSpeed takes for an overflow too. With
    `compute_grad_norm: false` there is no norm, and with an offloaded optimizer DeepSpeed has norms of another kind.
    """
    optimizer = engine.optimizer
    stage = engine.zero_optimization_stage()
    offloaded = getattr(optimizer, "cpu_offload", False) or getattr(optimizer, "offload_optimizer", False)
    if stage == 0 or offloaded or not getattr(optimizer, "compute_grad_norm", True):
        return
    groups = optimizer.fp16_groups if stage == 3 else optimizer.params_in_partition

    def norm_of_all() -> Tensor:
        gradients, parameters = [], []
        for number, group in enumerate(groups):
            own = [gradient for gradient in optimizer.averaged_gradients[number] if not getattr(gradient, "_zero_padding", False)]
            for gradient, parameter in zip(own, group, strict=False):  # stage 1 and 2 may pad the last part
                gradients.append(gradient)
                parameters.append(parameter)
        norm: Tensor = optimizer.get_grad_norm_direct(gradients, parameters)
        return norm

    from deepspeed.runtime.utils import combine_grad_norm_groups  # optional package, see above

    if stage == 3:
        optimizer._get_norm_groups = lambda: [norm_of_all()]
    else:
        optimizer.scaled_global_norm = lambda norm_type=2: combine_grad_norm_groups([norm_of_all()])
    optimizer.check_overflow = lambda partition_gradients=True: None


def skip_step(engine: Any) -> None:
    """Replaces `engine.step()` at stage 0 in fp32, where the bare optimizer would apply non-finite gradients."""
    engine.zero_grad()
    engine.micro_steps += 1


def link_masters(engine: Any) -> None:
    """Links each parameter to its fp32 master at stage 0 in fp16 and bf16, where DeepSpeed does not."""
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
    """Corrects two faults of DeepSpeed's optimizer at stage 0 in bf16 and fp16; does nothing at other stages.

    Its constructor takes a step with gradients of 0, so AdamW's bias correction would be one step ahead: that step's state is
    cleared. It also raises the loss scale before it divides the gradients by it: `raise_loss_scale` does that afterwards.
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
    """Returns the factor for the loss before `engine.backward`: 1 except at stage 0 in fp16, where DeepSpeed does not scale."""
    return float(engine.optimizer.loss_scale_config.cur_scale) if _stage_0_in_half_precision(engine) else 1.0


def raise_loss_scale(engine: Any) -> None:
    """Raises the dynamic loss scale, if due, after a step that was taken at stage 0."""
    if _stage_0_in_half_precision(engine):
        type(engine.optimizer)._update_scale(engine.optimizer, False)


def is_smallest_stage_0_scale(scale: float, engine: Any) -> bool:
    """Returns whether a dynamic loss scale at stage 0 cannot fall below `scale`; at other stages DeepSpeed itself raises."""
    if not _stage_0_in_half_precision(engine):
        return False
    config = engine.optimizer.loss_scale_config
    return bool(config.use_grad_scaling and config.dynamic_loss_scale and scale <= config.min_loss_scale)


def grad_norm(engine: Any, scale: float) -> float:
    """Returns the global norm of the last step's gradients before clipping; `scale` is the loss scale of that step."""
    norm = float(engine.get_global_grad_norm() or 0.0)
    unfused = _stage_0_in_half_precision(engine) and hasattr(engine.optimizer, "fp32_groups")  # its norm is of scaled gradients
    return norm / scale if unfused else norm


@torch.no_grad()
def clamp(parameter: nn.Parameter, low: float, high: float) -> None:
    """Clamps a small parameter: its fp32 master and the copy that the forward pass uses; all ranks call it together."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_set_full_fp32_param  # optional package, see above

    if not is_partitioned(parameter):
        # Every rank holds the same full low-precision copy: no communication unless a bound is crossed.
        if bool(((parameter >= low) & (parameter <= high)).all()):
            return
        if hasattr(parameter, "_hp_mapping"):
            master: Tensor = safe_get_full_fp32_param(parameter)
            safe_set_full_fp32_param(parameter, master.clamp(low, high))
        elif hasattr(parameter, "_fp32_master"):
            parameter._fp32_master.clamp_(low, high)
        parameter.clamp_(low, high)
        return
    # Each rank clamps its part: no communication. The padding is never read.
    part = local_part(parameter).clamp(low, high)
    optimizer = getattr(parameter, "_z3_optimizer", None)
    if optimizer is not None and parameter.requires_grad:
        optimizer.set_local_hp_param(part, parameter)
    parameter.ds_tensor.data.copy_(part.view_as(parameter.ds_tensor))  # type: ignore[attr-defined]
    drop_secondary(parameter)
    parameter.data.clamp_(low, high)  # DeepSpeed keeps small parameters gathered between uses; others are empty


def drop_secondary(parameter: nn.Parameter) -> None:
    """Discards the copy in this rank's node (hpZ) of a ZeRO-3 parameter whose part has changed: a forward pass would use it."""
    if getattr(parameter, "ds_secondary_tensor", None) is not None:
        parameter.ds_secondary_tensor = None  # type: ignore[attr-defined]


def local_part(parameter: nn.Parameter) -> Tensor:
    """Returns this rank's part of a ZeRO-3 parameter, flat, with trailing padding (uninitialised memory).

    It is the fp32 master once DeepSpeed's optimizer exists; before that, and for frozen parameters, the part in the
    parameter's own precision.
    """
    if hasattr(parameter, "_z3_optimizer") and parameter.requires_grad:
        part: Tensor = parameter._z3_optimizer.get_local_fp32_param(parameter)
    else:
        part = parameter.ds_tensor  # type: ignore[attr-defined]
    return part.detach().reshape(-1)


class PartitionedParameters(WholeParameters):
    """Access to parameters some of which ZeRO-3 has partitioned."""

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        """See `ParameterAccess.shape`."""
        return torch.Size(getattr(parameter, "ds_shape", parameter.shape))

    @torch.no_grad()
    def write(self, parameter: nn.Parameter, weights: Tensor) -> None:
        """See `ParameterAccess.write`. Call it before DeepSpeed's optimizer exists, which then holds its own masters."""
        if not is_partitioned(parameter):
            super().write(parameter, weights)
            return
        part: Tensor = parameter.ds_tensor.data.reshape(-1)  # type: ignore[attr-defined]
        rank = parameter.ds_process_group.rank()  # type: ignore[attr-defined]
        own = weights.reshape(-1)[rank * part.numel() : (rank + 1) * part.numel()]
        part[: own.numel()].copy_(own)
        drop_secondary(parameter)


def full_master(parameter: nn.Parameter) -> Tensor:
    """Returns the full parameter in fp32, from the master weights if DeepSpeed keeps any; all ranks call it together."""
    if hasattr(parameter, "_fp32_master"):
        master: Tensor = parameter._fp32_master
        return master.clone()
    if is_partitioned(parameter) or getattr(parameter, "_hp_mapping", None) is not None or hasattr(parameter, "_dp_group"):
        from deepspeed.utils import safe_get_full_fp32_param  # optional package, see above

        full: Tensor | None = safe_get_full_fp32_param(parameter)
        if full is not None:
            return full.detach().clone()
    return parameter.detach().float().clone()

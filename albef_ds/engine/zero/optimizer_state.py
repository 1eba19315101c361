"""Reads and sets full weights and AdamW's state of a DeepSpeed engine, parameter by parameter.

Besides `internals.py` the only file that uses DeepSpeed's private interface, pinned by tests/checkpoint/test_topology.py: the
public functions cannot set a parameter whose length the ranks do not divide, nor handle state before the first step, nor stage 0.
"""

from __future__ import annotations

from typing import Any

import torch
from deepspeed.utils import lazy_init_hp_params_optimizer_state, safe_get_full_optimizer_state
from torch import Tensor, nn

from albef_ds.common import comm
from albef_ds.engine.zero import internals

_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
_COUNTS = ("global_steps", "global_samples", "micro_steps", "skipped_steps")


def _base(engine: Any) -> Any:
    """Returns the optimizer that computes the step, which DeepSpeed's optimizer wraps."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def has_moments(engine: Any) -> bool:
    """Returns whether AdamW's state exists; the first step creates it."""
    return bool(_base(engine).state)


def link_moments(engine: Any) -> None:
    """Links parameters to their moments; call it before moments are read or set."""
    optimizer = engine.optimizer
    if hasattr(optimizer, "single_partition_of_fp32_groups"):
        # DeepSpeed links the state of stages 1 and 2 after the first group's step, when the other groups have none yet.
        for parameters, flat in zip(optimizer.bit16_groups, optimizer.single_partition_of_fp32_groups, strict=True):
            lazy_init_hp_params_optimizer_state(parameters, flat, optimizer.optimizer.state)


@torch.no_grad()
def prepare_moments(engine: Any) -> None:
    """Creates AdamW's state by a step with gradients of 0 at a learning rate of 0, which changes no weight."""
    if has_moments(engine):
        link_moments(engine)
        return
    optimizer, base = engine.optimizer, _base(engine)
    for group in base.param_groups:
        group["lr"] = 0.0
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):  # stage 3
        for number, flat in enumerate(optimizer.fp32_partitioned_groups_flat):
            swapped = optimizer._swappable_optimizer_subgroup(number)
            if swapped:
                optimizer._optimizer_states_and_gradient_swap_in(number)
            kept, flat.grad = flat.grad, torch.zeros_like(flat)
            optimizer._optimizer_step(number)
            flat.grad = kept
            if swapped:
                optimizer._optimizer_states_and_gradient_swap_out(number)
    elif hasattr(optimizer, "single_partition_of_fp32_groups"):  # stages 1 and 2
        flats = optimizer.single_partition_of_fp32_groups
        kept_all = [flat.grad for flat in flats]
        for flat in flats:
            flat.grad = torch.zeros_like(flat)
        for number in range(len(flats)):
            optimizer._optimizer_step(number)
        for flat, kept in zip(flats, kept_all, strict=True):
            flat.grad = kept
        link_moments(engine)
    else:
        masters = [parameter for group in base.param_groups for parameter in group["params"]]
        kept_all = [master.grad for master in masters]
        for master in masters:
            master.grad = torch.zeros_like(master)
        base.step()
        for master, kept in zip(masters, kept_all, strict=True):
            master.grad = kept
        if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
            optimizer._lazy_init_hp_params_optimizer_state()


def full_weights(parameter: nn.Parameter) -> Tensor:
    """Returns the full parameter in fp32, also if it is frozen; all ranks call it together."""
    if internals.is_partitioned(parameter) and not parameter.requires_grad:
        shape = parameter.ds_shape  # type: ignore[attr-defined]
        parts = comm.all_gather(parameter.ds_tensor.data)  # type: ignore[attr-defined]
        return parts.float()[: shape.numel()].view(shape)
    return internals.full_master(parameter)


def full_moment(engine: Any, parameter: nn.Parameter, key: str) -> Tensor:
    """Returns AdamW's full `exp_avg` or `exp_avg_sq` of a trained parameter in fp32; all ranks call it together."""
    if internals.is_partitioned(parameter) or hasattr(parameter, "_hp_mapping"):
        full: Tensor = safe_get_full_optimizer_state(parameter, key)
        return full.detach()
    return _own_moment(engine, parameter, key).clone()


@torch.no_grad()
def set_moment(engine: Any, parameter: nn.Parameter, key: str, value: Tensor) -> None:
    """Restores what `full_moment` returned; every rank passes the full `value`."""
    if internals.is_partitioned(parameter):
        parameter._z3_optimizer.set_local_hp_param(_local(parameter, value), parameter, key)  # type: ignore[attr-defined]
    elif hasattr(parameter, "_hp_mapping"):
        parameter.set_full_hp_param(value.to(parameter.device, torch.float32), key)  # type: ignore[attr-defined]
    else:
        _own_moment(engine, parameter, key).copy_(value)


@torch.no_grad()
def set_weights(parameter: nn.Parameter, value: Tensor) -> None:
    """Sets the fp32 master, if there is one, and the copy that the forward pass uses."""
    if internals.is_partitioned(parameter):
        local = _local(parameter, value)
        if parameter.requires_grad:
            parameter._z3_optimizer.set_local_hp_param(local, parameter)  # type: ignore[attr-defined]
        parameter.ds_tensor.data.copy_(local)  # type: ignore[attr-defined]
        internals.drop_secondary(parameter)
        if parameter.shape == value.shape:  # DeepSpeed keeps small parameters gathered between uses
            parameter.copy_(value)
        return
    if hasattr(parameter, "_fp32_master"):
        parameter._fp32_master.copy_(value)
    elif hasattr(parameter, "_hp_mapping"):
        parameter.set_full_hp_param(value.to(parameter.device, torch.float32))  # type: ignore[attr-defined]
    parameter.copy_(value)


def counters(engine: Any) -> dict[str, float]:
    """Returns DeepSpeed's step counts, the loss scale and AdamW's number of steps."""
    found = {name: getattr(engine, name) for name in _COUNTS}
    scaler = _scaler(engine)
    found |= {name: value for name in _SCALER if (value := getattr(scaler, name, None)) is not None}
    steps = [float(place["step"]) for place in _step_places(_base(engine))]
    return {name: float(value) for name, value in found.items()} | {"optimizer_steps": max(steps, default=0.0)}


def set_counters(engine: Any, values: dict[str, float]) -> None:
    """Restores what `counters` returned. A count that is missing, because another engine wrote `values`, is not changed."""
    for name in _COUNTS:
        if name in values:
            setattr(engine, name, int(values[name]))
    # DeepSpeed steps after every multiple of its accumulation, which differs on another number of ranks. A checkpoint is taken
    # between steps, so the next micro-batch is the first of one.
    engine.micro_steps -= engine.micro_steps % engine.gradient_accumulation_steps()
    scaler = _scaler(engine)
    for name in _SCALER:
        if name in values and getattr(scaler, name, None) is not None:
            setattr(scaler, name, type(getattr(scaler, name))(values[name]))
    for place in _step_places(_base(engine)):
        if isinstance(place["step"], Tensor):
            place["step"].fill_(values["optimizer_steps"])
        else:
            place["step"] = int(values["optimizer_steps"])


def _scaler(engine: Any) -> Any:
    return getattr(engine.optimizer, "loss_scaler", None) or getattr(engine.optimizer, "loss_scale_config", None)


def _step_places(base: Any) -> list[dict[str, Any]]:
    """Returns the dictionaries in which AdamW's implementation counts its steps: torch per parameter, apex per group."""
    return [place for place in [*base.state.values(), *base.param_groups] if "step" in place]


def _own_moment(engine: Any, parameter: nn.Parameter, key: str) -> Tensor:
    """Returns a view of the moment at stage 0, which every rank holds in full: by parameter, by master, or in a flat vector."""
    optimizer, state = engine.optimizer, _base(engine).state
    if parameter in state:
        moment: Tensor = state[parameter][key]
        return moment
    for number, group in enumerate(optimizer.fp16_groups):
        start = 0
        for place, member in enumerate(group):
            if member is parameter:
                if hasattr(optimizer, "fp32_groups"):
                    moment = state[optimizer.fp32_groups[number][place]][key]
                    return moment
                flat = state[optimizer.fp32_groups_flat[number]][key]
                return flat.narrow(0, start, member.numel()).view(member.shape)  # type: ignore[no-any-return]
            start += member.numel()
    raise KeyError(key)


def _local(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """Returns this rank's part of a full tensor in ZeRO-3's layout, flat; padding is 0."""
    part = parameter.ds_tensor  # type: ignore[attr-defined]
    rank = parameter.ds_process_group.rank()  # type: ignore[attr-defined]
    own = value.reshape(-1)[rank * part.numel() : (rank + 1) * part.numel()]
    local = torch.zeros(part.numel(), dtype=torch.float32, device=part.device)
    local[: own.numel()].copy_(own)
    return local

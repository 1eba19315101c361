"""Builds the task, its momentum model and the engine of a run from its configuration."""

from __future__ import annotations

import contextlib
import os

import torch

from albef_ds.common import comm
from albef_ds.common.errors import ConfigError, MachineError
from albef_ds.config.schema import RunConfig
from albef_ds.config.tasks import DistillationConfig
from albef_ds.engine.interface import Engine
from albef_ds.engine.local import LocalEngine
from albef_ds.models.compilation import BLOCKS, UNIMODAL_BLOCKS, compile_blocks
from albef_ds.models.losses.wide import wide_losses
from albef_ds.models.momentum import DenseMomentum
from albef_ds.models.norms import set_norms
from albef_ds.models.parameters import WHOLE, ParameterAccess
from albef_ds.models.random_weights import initialise
from albef_ds.tasks.base import Task
from albef_ds.tasks.registry import kind_of


def build_task(config: RunConfig, precision: str | None = None) -> Task:
    """Returns the task with seeded random weights and without momentum model, on the CPU in fp32.

    For training with ZeRO-3 in a resolved `precision`, no rank ever holds more than 1/N of it plus one module. The weights
    are the same on any number of ranks and at any stage, up to that precision.
    """
    construction: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if precision is not None and _is_partitioned(config):
        from albef_ds.engine.zero.construction import partitioned  # optional package: DeepSpeed
        from albef_ds.engine.zero.setup import deepspeed_config

        construction = partitioned(deepspeed_config(config, precision, comm.world_size()))
    with construction:
        task = kind_of(config.task).task(config.model, config.compute, config.task, seed=config.train.seed)
    initialise(task, config.train.seed, parameter_access(config), config.init.std)
    set_norms(task, config.compute.layer_norm if config.engine.device != "cpu" else "torch")
    torch.manual_seed(config.train.seed)
    return task


def _is_partitioned(config: RunConfig) -> bool:
    return config.engine.kind == "zero" and config.engine.stage == 3


def parameter_access(config: RunConfig) -> ParameterAccess:
    """Returns the access to the parameters of a task of `build_task`: to full tensors, or to this rank's ZeRO-3 parts."""
    if not _is_partitioned(config):
        return WHOLE
    from albef_ds.engine.zero.internals import PartitionedParameters  # optional package: DeepSpeed

    return PartitionedParameters()


def attach_momentum(task: Task, config: RunConfig) -> list[str]:
    """Gives a task that uses a momentum model one in `engine.momentum_storage`, equal to the student.

    Returns lines for the log: how several groups of ranks share it.
    """
    settings, storage = config.task, config.engine.momentum_storage
    if not isinstance(settings, DistillationConfig) or not settings.uses_momentum:
        return []
    dropout = settings.momentum_dropout or settings.compat
    if storage == "dense":
        task.attach_momentum(DenseMomentum(task.base, settings.momentum, dropout=dropout))
        return []
    from albef_ds.engine.zero.momentum import ShardedMomentum  # optional package: DeepSpeed
    from albef_ds.engine.zero.momentum_groups import momentum_group

    group = momentum_group(config.engine)
    momentum = ShardedMomentum(
        task.base,
        settings.momentum,
        storage=storage,
        update=config.compute.momentum_update,
        dropout=dropout,
        group=group,
        bucket_size=config.engine.momentum_bucket_size,
    )
    task.attach_momentum(momentum)
    return (
        [f"momentum model: {group.count} groups of {group.size} rank(s), each of which holds all of it"]
        if group.count > 1
        else []
    )


def build_engine(task: Task, config: RunConfig, device: torch.device, precision: str) -> Engine:
    """Returns the engine of `config.engine.kind` for a task whose momentum model is already attached.

    Raises:
        ConfigError: settings that `engine.kind=local` does not support.
        MachineError: the configuration needs a GPU, and `device` is none.
    """
    if wide_losses(config.compute).needs_gpu and device.type != "cuda":
        raise MachineError("compute.wide_losses=triton needs a GPU: use compute.wide_losses=sliced, which computes the same")
    if config.compute.momentum_update == "triton" and device.type != "cuda":
        raise MachineError("compute.momentum_update=triton needs a GPU: use compute.momentum_update=auto, to the same bits")
    if config.compute.compile:
        compile_blocks(task, UNIMODAL_BLOCKS if _is_partitioned(config) else BLOCKS)
    if config.engine.kind == "local":
        if comm.world_size() > 1:
            raise ConfigError("engine.kind=local runs one process: use engine.kind=zero for several ranks")
        if config.optim.name not in ("auto", "torch"):
            raise ConfigError(f"optim.name={config.optim.name} belongs to engine.kind=zero: use that, or optim.name=torch")
        if precision == "fp16":
            raise ConfigError("engine.kind=local has no loss scaling for fp16: use engine.kind=zero or engine.precision=bf16")
        return LocalEngine(task, config.optim, device, autocast=precision == "bf16", compat=config.task.compat)
    from albef_ds.engine.zero.engine import ZeroEngine  # optional package: DeepSpeed
    from albef_ds.engine.zero.setup import deepspeed_config

    return ZeroEngine(task, config, deepspeed_config(config, precision, comm.world_size()), device)


def start_ranks(config: RunConfig, device: torch.device) -> None:
    """Starts the process group if the engine needs one.

    Raises:
        ConfigError: several ranks were launched for the single-process engine.
        UserError: from `init_distributed`.
    """
    if config.engine.kind == "local" and int(os.environ.get("WORLD_SIZE") or "1") > 1:
        raise ConfigError("engine.kind=local runs one process: use engine.kind=zero for several ranks")
    if config.engine.kind == "zero":
        from albef_ds.engine.zero.setup import init_distributed  # optional package: DeepSpeed

        train = config.train
        # Longer than the watchdog's limits: it names the late rank, a collective that times out does not.
        collective_limit = 60.0 * max(30.0, 1.2 * train.step_limit, 1.2 * train.save_limit)
        init_distributed(device, 60.0 * train.start_limit, collective_limit)

"""From a configuration to the parts of a run: task, momentum model, engine, stream, evaluator."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from albef_ds import comm
from albef_ds.config.schema import PretrainConfig, RunConfig
from albef_ds.config.tasks import DistillationConfig
from albef_ds.engine import Engine, LocalEngine
from albef_ds.errors import ConfigError
from albef_ds.models.initial import load_mlm_head, load_text_encoder, load_visual_encoder
from albef_ds.momentum import DenseMomentum
from albef_ds.task import Task
from albef_ds.tasks.pretrain import PretrainTask

SCRATCH = "scratch"


TASKS: dict[type, Callable[..., Task]] = {
    PretrainConfig: PretrainTask,
}
"""The task of each kind of settings; all are made from (model, compute, task settings, seed)."""


def build_task(config: RunConfig) -> Task:
    """The task with seeded random weights and without momentum model, on the CPU in fp32."""
    torch.manual_seed(config.train.seed)
    return TASKS[type(config.task)](config.model, config.compute, config.task, seed=config.train.seed)


def load_initial_weights(task: Task, config: RunConfig) -> list[str]:
    """Fill the encoders from the files of `config.init`; returns one line per file for the log.

    Raises:
        ConfigError: no file and no `scratch` for an encoder, or a file that does not fit.
    """
    lines = []
    for name, load in (("visual_encoder", load_visual_encoder), ("text_encoder", load_text_encoder)):
        source = getattr(config.init, name)
        if source == SCRATCH:
            lines.append(f"{name}: random weights, as asked for")
        elif not source:
            raise ConfigError(f"init.{name} is not set: give a file of weights, or init.{name}={SCRATCH} for random weights")
        else:
            lines.append(f"{name}: {load(task.model, Path(source))}")
    if config.init.text_encoder not in ("", SCRATCH) and isinstance(task, PretrainTask):
        lines.append(f"MLM head: {load_mlm_head(task.mlm_head, Path(config.init.text_encoder))}")
    return lines


def attach_momentum(task: Task, config: RunConfig) -> None:
    """Give a task that uses one the momentum model that `engine.momentum_storage` asks for, equal to the student."""
    settings, storage = config.task, config.engine.momentum_storage
    if not isinstance(settings, DistillationConfig) or not settings.uses_momentum:
        return
    dropout = settings.momentum_dropout or settings.compat
    if storage == "dense":
        task.attach_momentum(DenseMomentum(task.base, settings.momentum, dropout=dropout))
        return
    from albef_ds.zero.momentum import ShardedMomentum

    task.attach_momentum(ShardedMomentum(task.base, settings.momentum, storage=storage, dropout=dropout))


def build_engine(task: Task, config: RunConfig, device: torch.device, precision: str) -> Engine:
    """The engine of `config.engine.kind`. The momentum model is attached already."""
    if config.engine.kind == "local":
        if comm.world_size() > 1:
            raise ConfigError("engine.kind=local runs one process: use engine.kind=zero for several ranks")
        if precision == "fp16":
            raise ConfigError("engine.kind=local has no loss scaling for fp16: use engine.kind=zero or engine.precision=bf16")
        return LocalEngine(task, config.optim, device, autocast=precision == "bf16", compat=config.task.compat)
    from albef_ds.zero.engine import ZeroEngine
    from albef_ds.zero.setup import deepspeed_config

    return ZeroEngine(task, config, deepspeed_config(config, precision, comm.world_size()), device)


def start_ranks(config: RunConfig, device: torch.device) -> None:
    """Bring up the process group where the engine needs one.

    Raises:
        ConfigError: several ranks were launched for an engine that has one, or the launch variables are incomplete.
    """
    if config.engine.kind == "local" and int(os.environ.get("WORLD_SIZE") or "1") > 1:
        raise ConfigError("engine.kind=local runs one process: use engine.kind=zero for several ranks")
    if config.engine.kind == "zero":
        from albef_ds.zero.setup import init_distributed

        init_distributed(device)

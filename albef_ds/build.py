"""From a configuration to the parts of a run: task, momentum model, engine, stream, evaluator."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import torch

from albef_ds import comm
from albef_ds.config.schema import (
    ClassificationConfig,
    PretrainConfig,
    RetrievalConfig,
    RunConfig,
    TextAssignmentConfig,
    VqaConfig,
)
from albef_ds.config.tasks import DistillationConfig
from albef_ds.engine import Engine, LocalEngine
from albef_ds.errors import ConfigError
from albef_ds.models.compilation import BLOCKS, UNIMODAL_BLOCKS, compile_blocks
from albef_ds.models.initial import load_mlm_head, load_text_encoder, load_visual_encoder
from albef_ds.models.initialise import initialise
from albef_ds.models.norms import set_norms
from albef_ds.models.parameters import WHOLE, ParameterAccess
from albef_ds.momentum import DenseMomentum
from albef_ds.task import Task
from albef_ds.tasks.classification import ClassificationTask
from albef_ds.tasks.pretrain import PretrainTask
from albef_ds.tasks.retrieval import RetrievalTask
from albef_ds.tasks.text_assignment import TextAssignmentTask
from albef_ds.tasks.vqa import VqaTask

SCRATCH = "scratch"


TASKS: dict[type, Callable[..., Task]] = {
    PretrainConfig: PretrainTask,
    RetrievalConfig: RetrievalTask,
    ClassificationConfig: ClassificationTask,
    TextAssignmentConfig: TextAssignmentTask,
    VqaConfig: VqaTask,
}
"""The task of each kind of settings; all are made from (model, compute, task settings, seed)."""


def build_task(config: RunConfig, precision: str | None = None) -> Task:
    """The task with seeded random weights and without momentum model.

    On the CPU in fp32; but for training with ZeRO-3 in a resolved `precision` no rank ever holds more of it than 1/N and
    one module. The weights are the same on any number of ranks and at any stage, up to that precision.
    """
    construction: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if precision is not None and _is_partitioned(config):
        from albef_ds.zero.construction import partitioned
        from albef_ds.zero.setup import deepspeed_config

        construction = partitioned(deepspeed_config(config, precision, comm.world_size()))
    with construction:
        task = TASKS[type(config.task)](config.model, config.compute, config.task, seed=config.train.seed)
    initialise(task, config.train.seed, _access(config))
    set_norms(task, config.compute.layer_norm if config.engine.device != "cpu" else "torch")
    torch.manual_seed(config.train.seed)
    return task


def _is_partitioned(config: RunConfig) -> bool:
    return config.engine.kind == "zero" and config.engine.stage == 3


def _access(config: RunConfig) -> ParameterAccess:
    if not _is_partitioned(config):
        return WHOLE
    from albef_ds.zero.internals import PartitionedParameters

    return PartitionedParameters()


def load_initial_weights(task: Task, config: RunConfig) -> list[str]:
    """Fill the model from `init.checkpoint`, else its encoders from the files of `config.init`; one line per file for the log.

    Raises:
        ConfigError: no file and no `scratch` for an encoder, or a file that does not fit.
    """
    if config.init.checkpoint:
        from albef_ds.pretrained import load_pretrained

        return [f"weights: {load_pretrained(task, config, _access(config))}"]
    lines = []
    for name, load in (("visual_encoder", load_visual_encoder), ("text_encoder", load_text_encoder)):
        source = getattr(config.init, name)
        if source == SCRATCH:
            lines.append(f"{name}: random weights, as asked for")
        elif not source:
            raise ConfigError(f"init.{name} is not set: give a file of weights, or init.{name}={SCRATCH} for random weights")
        else:
            lines.append(f"{name}: {load(task.model, Path(source), _access(config))}")
    if config.init.text_encoder not in ("", SCRATCH) and isinstance(task, PretrainTask):
        lines.append(f"MLM head: {load_mlm_head(task.mlm_head, Path(config.init.text_encoder), _access(config))}")
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


def load_initial_momentum(task: Task, config: RunConfig) -> list[str]:
    """Fill the attached momentum model from that of `init.checkpoint`; elsewhere it stays equal to the student."""
    if not config.init.checkpoint:
        return []
    from albef_ds.pretrained import load_pretrained_momentum

    return [line for line in [load_pretrained_momentum(task, config)] if line is not None]


def build_engine(task: Task, config: RunConfig, device: torch.device, precision: str) -> Engine:
    """The engine of `config.engine.kind`. The momentum model is attached already."""
    if config.compute.wide_losses == "triton" and device.type != "cuda":
        raise ConfigError("compute.wide_losses=triton needs a GPU: use compute.wide_losses=sliced, which is the same mathematics")
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

        train = config.train
        # The watchdog names who is late before a collective gives up without a name.
        patience = 60.0 * max(30.0, 1.2 * train.step_limit, 1.2 * train.save_limit)
        init_distributed(device, 60.0 * train.start_limit, patience)

"""Tiny runs that are saved, and gone on from on other ranks, stages and engines; nothing but DeepSpeed and our own parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from albef_ds.checkpoint.find import find_checkpoint
from albef_ds.checkpoint.saver import Saver
from albef_ds.checkpoint.snapshot import restore, restore_progress
from albef_ds.checkpoint.training_progress import TrainingProgress
from albef_ds.common import comm
from albef_ds.config.schema import RunConfig
from albef_ds.engine.interface import MOMENTS, Engine
from albef_ds.tasks.base import Task
from tests.engine.zero.common import CPU, make, micro_batches, tiny_config, with_engine

SCHEDULE = {"alpha": 0.4, "random_negatives": 0.3}


def config_for(stage: int, **engine: Any) -> RunConfig:
    """`tiny_config` at a stage; stage -1 is the plain engine."""
    if stage < 0:
        return with_engine(tiny_config(), kind="local", momentum_storage="dense")
    return with_engine(tiny_config(), stage=stage, **engine)


def with_dropout(config: RunConfig) -> RunConfig:
    """`config` with dropout, which draws from the ranks' generators."""
    return replace(config, model=replace(config.model, text=replace(config.model.text, dropout=0.2)))


def train(config: RunConfig, task: Task, engine: Engine, progress: TrainingProgress, until: int) -> list[dict[str, float]]:
    """Steps up to `until`; the mean losses of each."""
    losses = []
    while progress.step < until:
        result = engine.train_step(micro_batches(config, progress.step), SCHEDULE, 1e-3)
        progress.advance(result.skipped)
        losses.append(comm.all_reduce_mean(result.losses, CPU))
    return losses


def save(output: Path, config: RunConfig, task: Task, engine: Engine, progress: TrainingProgress) -> Path:
    """Write a checkpoint the way the trainer does."""
    saver = Saver(output, config)
    saver.root.mkdir(parents=True, exist_ok=True)
    saver.start(engine, task, progress, [])
    result = saver.finish()
    assert result is not None and not result.error, result
    return result.folder


def leg(output: Path, config: RunConfig, until: int) -> dict[str, Any]:
    """Go on from the newest checkpoint in `output` if there is one, train to step `until`, save; everything to compare."""
    task, engine = make(config)
    folder = find_checkpoint(output, "auto")
    progress = restore_progress(folder, config.train) if folder else TrainingProgress(config.train)
    if folder:
        restore(folder, engine, task, config)
    losses = train(config, task, engine, progress, until)
    save(output, config, task, engine, progress)
    return {"losses": losses, **state_of(task, engine)}


def state_of(task: Task, engine: Engine) -> dict[str, Any]:
    """All that a checkpoint must carry, whole."""
    state: dict[str, Tensor] = {f"student.{name}": tensor for name, tensor in engine.full_state_dict().items()}
    for part in MOMENTS:
        state |= {f"{part}.{name}": tensor.cpu().clone() for name, tensor in engine.tensors(part)}
    state |= {f"momentum.{name}": tensor.cpu().clone() for name, tensor in task.momentum.parameters()}
    queue = task.queue
    assert queue is not None
    state |= {f"queue.{name}": tensor.clone() for name, tensor in queue.named_buffers()}
    return {"state": state, "pointer": queue.pointer, "filled": queue.filled, "counters": engine.counters()}

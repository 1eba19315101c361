"""A tiny pretraining run on made-up batches, the same for any engine, stage or number of ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from albef_ds.common import comm
from albef_ds.config.schema import (
    ComputeConfig,
    DataConfig,
    EngineConfig,
    OptimConfig,
    PretrainConfig,
    RunConfig,
    TrainConfig,
)
from albef_ds.data.batch import ImageTextBatch
from albef_ds.engine import build
from albef_ds.engine.interface import Engine
from albef_ds.engine.zero.setup import init_distributed
from albef_ds.tasks.pretrain import PretrainTask
from tests.tiny import tiny_model

CPU = torch.device("cpu")
VOCAB, LENGTH = 211, 9
GLOBAL_BATCH = 12
"""Divisible by 1, 2, 3 ranks, in micro-batches of GLOBAL_BATCH / 4 or a multiple of it."""


def tiny_config(**changes: Any) -> RunConfig:
    """Returns a configuration with sizes that do not divide by 2, 3 or 4, so that every shard is padded somewhere."""
    config = RunConfig(
        model=tiny_model(
            vision={"width": 30, "mlp_ratio": 2.1},
            text={"vocab_size": VOCAB, "width": 26, "intermediate_width": 37, "max_positions": 19},
            embed_dim=17,
        ),
        task=PretrainConfig(queue_size=30, momentum=0.9),
        engine=EngineConfig(kind="zero", stage=2, precision="fp32", momentum_storage="fp32"),
        optim=OptimConfig(name="torch"),
        data=DataConfig(max_tokens=LENGTH),
        train=TrainConfig(micro_batch_size=3, global_batch_size=GLOBAL_BATCH),
    )
    return replace(config, **changes)


def tiny_batch(step: int, size: int = GLOBAL_BATCH) -> ImageTextBatch:
    """Returns batch number `step`, with padding and repeated images and captions."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(5, VOCAB, (size, LENGTH), generator=generator)
    ids[:, 0] = 2
    mask = torch.arange(LENGTH)[None] < torch.randint(4, LENGTH + 1, (size, 1), generator=generator)
    ids[~mask] = 0
    labels = torch.where((torch.rand(size, LENGTH, generator=generator) < 0.3) & mask, ids, -100)
    labels[:, 0], labels[:, 1] = -100, ids[:, 1]
    rows = torch.arange(size) + step * size
    return ImageTextBatch(
        images=torch.randn(size, 3, 16, 16, generator=generator),
        token_ids=ids,
        token_mask=mask,
        masked_ids=torch.where(labels >= 0, 3, ids),
        mlm_labels=labels,
        image_ids=rows % 13,
        caption_ids=rows % 17,
        positions=rows,
    )


def make(config: RunConfig, device: torch.device = CPU) -> tuple[PretrainTask, Engine]:
    """Returns task and engine of `config` on the running ranks."""
    if config.engine.kind == "zero":
        init_distributed(device)
    task = build.build_task(config, config.engine.precision)
    build.attach_momentum(task, config)
    engine = build.build_engine(task, config, device, config.engine.precision)
    task.train()
    return task, engine


def micro_batches(config: RunConfig, step: int) -> list[ImageTextBatch]:
    """Returns this rank's share of batch `step`, split into micro-batches."""
    batch, size = tiny_batch(step, config.train.global_batch_size), config.train.micro_batch_size
    share = config.train.global_batch_size // comm.world_size()
    start = comm.rank() * share
    return [batch[slice(first, first + size)] for first in range(start, start + share, size)]


def run_steps(config: RunConfig, steps: int, dry_run: bool = False, align: int = 0, device: torch.device = CPU) -> dict[str, Any]:
    """Trains and returns losses and norms per step, full weights, momentum weights and the queue.

    The first `align` steps are without fusion.
    """
    task, engine = make(config, device)
    if dry_run:
        engine.dry_run(tiny_batch(999, config.train.micro_batch_size).to(device), {"alpha": 0.4})
    losses, norms = [], []
    for step in range(steps):
        schedule = {"alpha": 0.4, "random_negatives": 0.3, "fuse": step >= align}
        result = engine.train_step([batch.to(device) for batch in micro_batches(config, step)], schedule, 1e-3)
        assert not result.skipped
        losses.append(comm.all_reduce_mean(result.losses, device))
        norms.append(result.grad_norm)
    return {
        "losses": losses,
        "norms": norms,
        "student": engine.full_state_dict(),
        "momentum": task.momentum.full_state_dict(),
        "queue": task.queue.images.cpu().clone(),
    }


def with_engine(config: RunConfig, **changes: Any) -> RunConfig:
    """Returns `config` with other engine settings."""
    return replace(config, engine=replace(config.engine, **changes))


def with_checkpointing(config: RunConfig) -> RunConfig:
    """Returns `config` with every part's activations recomputed."""
    return replace(config, compute=ComputeConfig(checkpoint_visual=True, checkpoint_text=True, checkpoint_multimodal=True))


def largest_difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Returns the largest absolute difference over equally named tensors; the names must be the same."""
    names = set(theirs) - {"mlm_head.decoder.weight"}  # a tied tensor, listed once by some
    assert names <= set(ours) <= set(theirs), sorted(set(ours) ^ set(theirs))
    return max(float((ours[name] - theirs[name]).abs().max()) for name in names)

"""Tiny fine-tuning runs: a configuration and batches per task, the same for any engine, stage or number of ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from albef_ds.common import comm
from albef_ds.config.schema import ClassificationConfig, RetrievalConfig, RunConfig, TaskConfig, TextAssignmentConfig, VqaConfig
from albef_ds.data.batch import Batch, ClassificationBatch, ImageTextBatch, VqaBatch
from albef_ds.engine import build
from albef_ds.engine.zero.setup import init_distributed
from tests.engine.zero.common import CPU, VOCAB, tiny_batch, tiny_config

TASKS: dict[str, TaskConfig] = {
    "retrieval": RetrievalConfig(queue_size=30, momentum=0.9),
    "entailment": ClassificationConfig(momentum=0.9),
    "nlvr2": ClassificationConfig(num_classes=2, num_images=2, momentum=0.9),
    "text assignment": TextAssignmentConfig(),
    "vqa": VqaConfig(decoder_layers=2, momentum=0.9),
}
ANSWER_LENGTH = 5


def task_config(name: str, **changes: Any) -> RunConfig:
    """Returns the tiny model with the settings of the task called `name`."""
    return replace(tiny_config(task=TASKS[name]), **changes)


def task_batch(name: str, step: int, size: int) -> Batch:
    """Returns batch number `step` of the task called `name`."""
    pairs = tiny_batch(step, size)
    generator = torch.Generator().manual_seed(1000 + step)
    common = {"token_ids": pairs.token_ids, "token_mask": pairs.token_mask, "positions": pairs.positions}
    if name in ("retrieval", "text assignment"):
        return pairs
    if name == "vqa":
        counts = torch.arange(size) % 2 + 1
        total = int(counts.sum())
        ids = torch.randint(5, VOCAB, (total, ANSWER_LENGTH), generator=generator)
        ids[:, 0] = 2
        mask = torch.arange(ANSWER_LENGTH)[None] < torch.randint(3, ANSWER_LENGTH + 1, (total, 1), generator=generator)
        return VqaBatch(
            images=pairs.images,
            **common,
            answer_ids=ids.masked_fill(~mask, 0),
            answer_mask=mask,
            answer_weights=torch.rand(total, generator=generator),
            answer_counts=counts,
        )
    num_images = 2 if name == "nlvr2" else 1
    images = torch.randn(size, num_images, 3, 16, 16, generator=generator)
    labels = torch.randint(0, 2, (size,), generator=generator)
    return ClassificationBatch(images=images, **common, labels=labels)


def run_task(name: str, config: RunConfig, steps: int = 2) -> dict[str, Any]:
    """Trains on this rank's share of each global batch; returns losses per step, norms, full weights, momentum weights."""
    if config.engine.kind == "zero":
        init_distributed(CPU)
    task = build.build_task(config, config.engine.precision)
    build.attach_momentum(task, config)
    engine = build.build_engine(task, config, CPU, config.engine.precision)
    task.train()
    size, share = config.train.micro_batch_size, config.train.global_batch_size // comm.world_size()
    losses, norms = [], []
    for step in range(steps):
        batch, start = task_batch(name, step, config.train.global_batch_size), comm.rank() * share
        parts = [batch[slice(first, first + size)] for first in range(start, start + share, size)]
        result = engine.train_step(parts, {key: 0.4 for key in task.schedule(0.5) if key == "alpha"}, 1e-3)
        assert not result.skipped
        losses.append(comm.all_reduce_mean(result.losses, CPU))
        norms.append(result.grad_norm)
    momentum = task.momentum.full_state_dict() if task.has_momentum else {}
    return {"losses": losses, "norms": norms, "student": engine.full_state_dict(), "momentum": momentum}


def image_text_batch(size: int, step: int = 0) -> ImageTextBatch:
    """Returns pairs with different images."""
    batch = tiny_batch(step, size)
    return replace(batch, image_ids=batch.positions, caption_ids=batch.positions)

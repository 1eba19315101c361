"""A model small enough to differentiate in milliseconds, and batches with duplicates and padding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from albef_ds.config.schema import ComputeConfig, ModelConfig, PretrainConfig
from albef_ds.data.batch import ImageTextBatch
from albef_ds.models.momentum import DenseMomentum
from albef_ds.tasks.pretrain import PretrainTask
from tests import tiny
from tests.tiny import EMBED_DIM, IMAGE_SIZE, VOCAB

LENGTH = 7


def tiny_model(*, dropout: float = 0.0, frozen: bool = False, **text: Any) -> ModelConfig:
    """Returns the tiny model with few positions."""
    text = {"max_positions": 12, "dropout": dropout, "frozen": frozen, **text}
    return tiny.tiny_model(vision={"mlp_ratio": 2.0}, text=text)


def tiny_task(
    config: PretrainConfig | None = None,
    compute: ComputeConfig | None = None,
    model: ModelConfig | None = None,
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> PretrainTask:
    """Returns a task in train mode whose weights are far from their tiny initial values and whose momentum copy differs."""
    config = config or PretrainConfig(queue_size=12)
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    task = PretrainTask(model or tiny_model(), compute or ComputeConfig(), config, seed=5)
    task.attach_momentum(DenseMomentum(task.base, config.momentum, dropout=config.momentum_dropout))
    torch.manual_seed(seed)  # again: the queue drew numbers, as many as it has entries
    with torch.no_grad():
        for name, parameter in [*task.named_parameters(), *task.momentum.modules.named_parameters()]:
            if name != "temperature":
                parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.1))
    torch.random.set_rng_state(state)
    task.to(dtype)
    task.momentum.modules.to(dtype)
    task.queue.to(dtype)
    task.train()
    return task


def random_batch(
    rows: int, seed: int = 0, *, start: int = 0, length: int = LENGTH, duplicates: bool = True, dtype: torch.dtype = torch.float64
) -> ImageTextBatch:
    """Returns texts of different lengths, at least one masked token in each; with `duplicates` rows 0 and 1 show one image and
    rows 1 and 2 share a caption. Every sample depends on (`seed`, its number) only."""
    numbers = range(start, start + rows)
    samples = [_sample(seed, number, length) for number in numbers]
    images, ids, masked_ids, labels = (torch.stack([sample[i] for sample in samples]) for i in range(4))
    image_ids, caption_ids = torch.tensor(numbers) + 1000, torch.tensor(numbers) + 2000
    if duplicates:
        image_ids = torch.where(image_ids == 1001, 1000, image_ids)
        caption_ids = torch.where(caption_ids == 2002, 2001, caption_ids)
    return ImageTextBatch(
        images=images.to(dtype),
        token_ids=ids,
        token_mask=ids > 0,
        masked_ids=masked_ids,
        mlm_labels=labels,
        image_ids=image_ids,
        caption_ids=caption_ids,
        positions=torch.tensor(numbers),
    )


def _sample(seed: int, number: int, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * seed + number)
    image = torch.randn(3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    words = 3 + number // 2 % (length - 3)
    ids = torch.zeros(length, dtype=torch.int64)
    ids[0] = 1
    ids[1 : 1 + words] = torch.randint(3, VOCAB, (words,), generator=generator)
    chosen = (torch.rand(length, generator=generator) < 0.3) & (ids > 2)
    chosen[1] = True
    return image, ids, torch.where(chosen, 2, ids), torch.where(chosen, ids, -100)


def shortest_form(batch: ImageTextBatch) -> ImageTextBatch:
    """Returns the batch padded to its longest text, as a loader delivers it."""
    longest = int(batch.token_mask.sum(dim=1).max())
    texts = ("token_ids", "token_mask", "masked_ids", "mlm_labels")
    return replace(batch, **{name: getattr(batch, name)[:, :longest] for name in texts})


def losses_and_gradients(
    task: PretrainTask, batch: ImageTextBatch, **schedule: float
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Runs one forward and backward, and clears gradients and pending features."""
    losses, _ = task(batch, **{"alpha": 0.4, **schedule})
    task.total(losses).backward()
    gradients = {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}
    task.zero_grad()
    task.after_skipped_step()
    return {name: float(value.detach()) for name, value in losses.items()}, gradients


def fill_queue(task: PretrainTask, rows: int, seed: int = 9) -> None:
    """Puts `rows` random features with new ids into the task's queue, one of them of image 1000."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.nn.functional.normalize(torch.randn(2, rows, EMBED_DIM, generator=generator), dim=-1)
    image_ids = torch.arange(rows) + 5000
    image_ids[0] = 1000
    task.queue.enqueue(features[0], features[1], image_ids, torch.arange(rows) + 6000, torch.arange(rows))

"""Text assignment: predicts if a text belongs to the first image, the second, or neither (paper section 5, NLVR2).

It trains the doubled multimodal layers on image-text pairs before NLVR2, without distillation, as in the released code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from albef_ds.common.errors import ConfigError
from albef_ds.config.schema import ComputeConfig, ModelConfig, TextAssignmentConfig
from albef_ds.data.batch import ImageTextBatch
from albef_ds.models.albef import ALBEF
from albef_ds.models.fusion_pass import FusionPass
from albef_ds.models.losses.negatives import gumbel, hashed_uniform
from albef_ds.models.precision import at_least_fp32
from albef_ds.tasks.base import Losses, Metrics, Task

FIRST, SECOND, NEITHER = 0, 1, 2
"""The classes: the text describes the first image, the second, or neither."""
_CASE, _ORDER, _IMAGE = 11, 12, 13  # tags make the streams of random numbers independent


class TextAssignmentTask(Task):
    """`base` has the model with two images per text; beside it are the head and the frozen projection for image similarity."""

    def __init__(self, model: ModelConfig, compute: ComputeConfig, config: TextAssignmentConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.seed = seed
        self.base = nn.ModuleDict({"albef": ALBEF(model, compute, projections=False, num_images=2)})
        self.vision_proj = nn.Linear(model.vision.width, model.embed_dim)
        self.ta_head = nn.Linear(model.text.width, 3)
        self.vision_proj.requires_grad_(False)  # used for sampling only, which is not differentiable

    def schedule(self, epoch: float) -> dict[str, float]:
        """Returns {}: the task has no schedule."""
        del epoch
        return {}

    def forward(self, batch: ImageTextBatch) -> tuple[Losses, Metrics]:
        """Returns loss `ta` and metric `ta_accuracy` of B pairs. Raises `ConfigError` for fewer than three pairs."""
        if len(batch) < 3:
            raise ConfigError(f"train.micro_batch_size of {len(batch)} leaves a text without two other images: use 3 or more")
        albef = self.model
        image_embeds = albef.encode_image(batch.images)
        first, second, labels = self.assign(image_embeds.detach(), batch)
        images = torch.stack([image_embeds[first], image_embeds[second]])
        text_embeds = albef.encode_text(batch.token_ids, batch.token_mask)
        cls = torch.zeros(len(batch), 1, dtype=torch.int64, device=labels.device)
        [hidden] = albef.fuse(images, [FusionPass(text_embeds, batch.token_mask, positions=cls)])
        logits = at_least_fp32(self.ta_head(hidden[:, 0]))
        with torch.no_grad():
            metrics = {"ta_accuracy": (logits.argmax(dim=1) == labels).double().mean()}
        return {"ta": F.cross_entropy(logits, labels)}, metrics

    @torch.no_grad()
    def assign(self, image_embeds: Tensor, batch: ImageTextBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Returns each text's first and second image as rows of the batch, and its label, each int64 (B,).

        The images are two different other ones with probability 1/3, else the own one and another in random order. Others are
        drawn by similarity of image features, from the softmax over the batch without the own image; known copies of the own
        image are drawn last.
        """
        sim = F.normalize(at_least_fp32(self.vision_proj(image_embeds[:, 0])), dim=-1).double()
        sim = sim @ sim.T / self.config.temperature
        own = torch.arange(len(batch), device=sim.device)
        if not self.config.compat:
            # Finite, so that similarities still order the images if all are the same.
            same = batch.image_ids[:, None] == batch.image_ids[None]
            sim = sim - same * (1e3 / self.config.temperature)
        sim = sim.masked_fill(torch.eye(len(batch), dtype=torch.bool, device=sim.device), float("-inf"))
        one, other = self.draw_two(sim, batch.positions).unbind(dim=1)
        case, order = self.draw_cases(batch.positions)
        labels = torch.where(case < 1 / 3, NEITHER, torch.where(order < 1 / 2, FIRST, SECOND))
        first = torch.where(labels == FIRST, own, one)
        second = torch.where(labels == SECOND, own, torch.where(labels == NEITHER, other, one))
        return first, second, labels

    def draw_cases(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Draws two uniform numbers per sample: below 1/3 for two other images, and below 1/2 for the own image first."""
        return hashed_uniform(self.seed, positions, _CASE), hashed_uniform(self.seed, positions, _ORDER)

    def draw_two(self, logits: Tensor, positions: Tensor) -> Tensor:
        """Draws int64 (B, 2), two columns per row without replacement from the softmax of `logits` (B, B)."""
        noise = gumbel(hashed_uniform(self.seed, positions[:, None], positions[None, :], _IMAGE))
        return (logits + noise).topk(2, dim=1).indices

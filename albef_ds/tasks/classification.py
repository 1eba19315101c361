"""Classification of the fused [CLS]: visual entailment (one image) and NLVR2 (two images) (paper section 5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from albef_ds.config.schema import ClassificationConfig, ComputeConfig, ModelConfig
from albef_ds.data.batch import ClassificationBatch
from albef_ds.models.albef import ALBEF
from albef_ds.models.fusion_pass import FusionPass
from albef_ds.models.heads import ClassificationHead
from albef_ds.models.losses.distillation import distilled_cross_entropy
from albef_ds.tasks.base import Losses, Metrics, Task, albef_of


class ClassificationTask(Task):
    """`base` has the model without ITC projections and the head, both with a momentum copy if alpha is above 0."""

    def __init__(self, model: ModelConfig, compute: ComputeConfig, config: ClassificationConfig, seed: int = 0) -> None:
        super().__init__()
        del seed  # nothing is drawn
        self.config = config
        albef = ALBEF(model, compute, projections=False, num_images=config.num_images)
        self.base = nn.ModuleDict({"albef": albef, "cls_head": ClassificationHead(model.text.width, config.num_classes)})

    def schedule(self, epoch: float) -> dict[str, float]:
        """Returns alpha, which rises linearly over `alpha_ramp_epochs`."""
        return {"alpha": self.config.alpha_at(epoch)}

    def forward(self, batch: ClassificationBatch, *, alpha: float) -> tuple[Losses, Metrics]:
        """Returns loss `cls` and metric `accuracy` of B samples; `alpha` is the weight of the momentum model's softmax."""
        logits = self.logits(batch)
        momentum_logits = None
        if alpha > 0.0:
            with self.momentum_modules(logits) as modules:
                momentum_logits = self._logits(modules, batch)
        loss = distilled_cross_entropy(logits, batch.labels, momentum_logits, alpha).mean()
        with torch.no_grad():
            metrics = {"accuracy": (logits.argmax(dim=1) == batch.labels).double().mean()}
        return {"cls": loss}, metrics

    def logits(self, batch: ClassificationBatch, *, momentum: bool = False) -> Tensor:
        """Returns (B, num_classes), by the student or its momentum copy."""
        return self._logits(self.momentum.modules if momentum else self.base, batch)

    def _logits(self, modules: nn.ModuleDict, batch: ClassificationBatch) -> Tensor:
        albef = albef_of(modules)
        assert batch.images.shape[1] == self.config.num_images, "the batch has another number of images per sample"
        # One call for all images: the first images of all samples, then the second ones.
        embeds = albef.encode_image(batch.images.transpose(0, 1).flatten(0, 1))
        images = embeds.view(self.config.num_images, len(batch), *embeds.shape[1:])
        text_embeds = albef.encode_text(batch.token_ids, batch.token_mask)
        cls = torch.zeros(len(batch), 1, dtype=torch.int64, device=text_embeds.device)
        fused_with = images if self.config.num_images > 1 else images[0]
        [hidden] = albef.fuse(fused_with, [FusionPass(text_embeds, batch.token_mask, positions=cls)])
        return modules["cls_head"](hidden[:, 0])

"""Retrieval: ITC + ITM on annotated pairs (paper section 5). Weakly supervised grounding is trained in the same way."""

from __future__ import annotations

from torch import nn

from albef_ds.config.schema import ComputeConfig, ModelConfig, RetrievalConfig
from albef_ds.data.batch import ImageTextBatch
from albef_ds.tasks.base import Losses, Metrics, albef_of
from albef_ds.tasks.contrastive import ContrastiveTask


class RetrievalTask(ContrastiveTask):
    """`base` has the model, with a momentum copy; ITM head and temperature have none.

    Captions of one image share its `image_ids` and are positives of each other, in the queue too, as released.
    """

    config: RetrievalConfig

    def __init__(self, model: ModelConfig, compute: ComputeConfig, config: RetrievalConfig, seed: int = 0) -> None:
        super().__init__(model, compute, config, seed, start_filled=config.compat or not config.mask_unfilled_queue)

    def forward(self, batch: ImageTextBatch, *, alpha: float, random_negatives: float = 0.0) -> tuple[Losses, Metrics]:
        """Returns losses `itc` and `itm` of one micro-batch, and metrics; arguments and errors as in pretraining."""
        batch, _ = self.same_length(batch)
        albef, side = self.model, self.side_stream(batch)
        image_embeds = albef.encode_image(batch.images)
        text_embeds = albef.encode_text(batch.token_ids, batch.token_mask)
        image_feat, text_feat = albef.project_image(image_embeds), albef.project_text(text_embeds, batch.token_mask)
        with side.work(), self.momentum_modules(text_embeds) as modules:
            momentum = albef_of(modules)
            image_embeds_m = self.momentum_images(momentum, side, batch.images, image_embeds)
            [text_embeds_m] = self.momentum_texts(momentum, side, [batch.token_ids], batch.token_mask, [text_embeds])
            image_feat_m = momentum.project_image(image_embeds_m)
            text_feat_m = momentum.project_text(text_embeds_m, batch.token_mask)
        embeds_m = (image_embeds_m, text_embeds_m) if self.fuses_momentum else None
        side.join(image_feat_m, text_feat_m, *(embeds_m or ()))
        candidates = self.gather_candidates(batch, image_feat_m, text_feat_m)

        schedule = (alpha, random_negatives)
        found = self.contrast_and_draw(batch, image_feat, text_feat, candidates, schedule, embeds_m)
        gathered, positive, negatives = self.matching_passes(batch, image_embeds, text_embeds, found.texts, found.images)
        on_positive, on_negative = albef.fuse(gathered, [positive, negatives])
        itm, itm_accuracy = self.matching_loss(on_positive, on_negative, found.likely)
        metrics = self.contrastive_metrics(found.sim_i2t, candidates, found.likely)
        return {"itc": found.itc, "itm": itm}, {"itm_accuracy": itm_accuracy, **metrics}

    def bounded_parameters(self) -> list[tuple[nn.Parameter, float, float]]:
        """Returns the temperature with its bounds; the released fine-tuning does not bound it."""
        return [] if self.config.compat else super().bounded_parameters()

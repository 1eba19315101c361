"""Pretraining: ITC + MLM + ITM with momentum distillation (paper sections 3.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from albef_ds.common import comm
from albef_ds.config.schema import ComputeConfig, ModelConfig, PretrainConfig
from albef_ds.data.batch import ImageTextBatch
from albef_ds.models.albef import ALBEF
from albef_ds.models.fusion_pass import FusionPass
from albef_ds.models.heads import MaskedTokens, MLMHead
from albef_ds.models.text_cache import TextCache
from albef_ds.tasks.base import Losses, Metrics, albef_of
from albef_ds.tasks.contrastive import Candidates, ContrastiveTask
from albef_ds.tasks.side_stream import SideStream


class PretrainTask(ContrastiveTask):
    """`base` has the model and its MLM head, both with a momentum copy; ITM head and temperature have none."""

    config: PretrainConfig

    def __init__(self, model: ModelConfig, compute: ComputeConfig, config: PretrainConfig, seed: int = 0) -> None:
        # The released training starts with random unit vectors in the queue, which act as negatives.
        super().__init__(model, compute, config, seed, start_filled=config.compat or not config.mask_unfilled_queue)
        self._text_cache = TextCache(self.model.encode_text, compute.cached_texts) if compute.cached_texts else None

    def distilled_modules(self, model: ModelConfig, compute: ComputeConfig) -> dict[str, nn.Module]:
        """Returns the model and the MLM head."""
        albef = ALBEF(model, compute)
        return {"albef": albef, "mlm_head": MLMHead(model.text, albef.text_encoder.embeddings.word)}

    @property
    def mlm_head(self) -> MLMHead:
        """The student's MLM head."""
        head = self.base["mlm_head"]
        assert isinstance(head, MLMHead)
        return head

    @property
    def knows_positives(self) -> bool:
        """See `ContrastiveTask.knows_positives`. False in the released pretraining."""
        return self.config.mask_known_positives and not self.config.compat

    def schedule(self, epoch: float) -> dict[str, float]:
        """Adds `fuse` to the schedule of `ContrastiveTask`: false during the first `align_epochs`, then true."""
        return {**super().schedule(epoch), "fuse": epoch >= self.config.align_epochs}

    def forward(
        self, batch: ImageTextBatch, *, alpha: float, random_negatives: float = 0.0, fuse: bool = True
    ) -> tuple[Losses, Metrics]:
        """Returns losses `itc`, `mlm`, `itm` of one micro-batch, and metrics.

        Args:
            batch: B pairs.
            alpha: weight of the momentum model's pseudo-targets.
            random_negatives: share of ITM negatives drawn uniformly.
            fuse: false while the multimodal encoder is not trained yet: `itc` is then the only loss.

        Raises:
            ConfigError: ITM is trained and the batch has only one pair, so there is no negative.
        """
        counted = [int((batch.mlm_labels >= 0).sum())] if fuse and self.config.gather_negatives else []
        batch, masked_of_all = self.same_length(batch, *counted)
        if not fuse:
            return self._align(batch, alpha)
        albef = self.model
        tokens = MaskedTokens.of(batch.mlm_labels, self.compute.mlm_masked_only)
        side = self.side_stream(batch)
        image_embeds = albef.encode_image(batch.images)
        text_embeds, masked_embeds = self._encode_texts(batch)
        image_feat, text_feat = albef.project_image(image_embeds), albef.project_text(text_embeds, batch.token_mask)
        distilled = (tokens, masked_embeds) if alpha > 0.0 else None
        candidates, momentum_logits, embeds_m = self._momentum_pass(side, batch, image_embeds, text_embeds, distilled)

        schedule = (alpha, random_negatives)
        found = self.contrast_and_draw(batch, image_feat, text_feat, candidates, schedule, embeds_m)
        gathered, positive, negatives = self.matching_passes(batch, image_embeds, text_embeds, found.texts, found.images)
        masked = FusionPass(masked_embeds, batch.token_mask, positive.image_index, tokens.positions)
        on_positive, on_negative, on_masked = albef.fuse(gathered, [positive, negatives, masked])
        itm, itm_accuracy = self.matching_loss(on_positive, on_negative, found.likely)
        # A single rank would divide by the tokens of the full batch; data-parallel averaging divides by the ranks again.
        divisor = masked_of_all[0] / comm.world_size() if masked_of_all else float(len(tokens.labels))
        mlm = self.wide_losses.masked_language(self.mlm_head, on_masked, tokens, momentum_logits, alpha) / max(divisor, 1.0)
        metrics = {"itm_accuracy": itm_accuracy, **self.contrastive_metrics(found.sim_i2t, candidates, found.likely)}
        metrics["masked_tokens"] = mlm.new_full((), len(tokens.labels), dtype=torch.float64)
        return {"itc": found.itc, "mlm": mlm, "itm": itm}, metrics

    def _align(self, batch: ImageTextBatch, alpha: float) -> tuple[Losses, Metrics]:
        """Returns losses and metrics of ITC only."""
        side = self.side_stream(batch)
        text_embeds = self._encode(batch.token_ids, batch.token_mask)
        image_embeds = self.model.encode_image(batch.images)
        image_feat, text_feat = self.model.project_image(image_embeds), self.model.project_text(text_embeds, batch.token_mask)
        candidates, _, _ = self._momentum_pass(side, batch, image_embeds, text_embeds, None)
        itc, sim_i2t, _ = self.contrast(batch, image_feat, text_feat, candidates, alpha)
        return {"itc": itc}, self.contrastive_metrics(sim_i2t, candidates)

    @property
    def _encode(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The student's `encode_text`, cached while the text encoder is frozen."""
        return self._text_cache or self.model.encode_text

    def _encode_texts(self, batch: ImageTextBatch) -> tuple[Tensor, Tensor]:
        """Returns embeddings (B, L, D) of the clean and the masked text."""
        encode = self._encode
        if not self.compute.one_fusion_call:
            return encode(batch.token_ids, batch.token_mask), encode(batch.masked_ids, batch.token_mask)
        both = encode(torch.cat([batch.token_ids, batch.masked_ids]), batch.token_mask.repeat(2, 1))
        clean, masked = both.chunk(2)
        return clean, masked

    @torch.no_grad()
    def _momentum_pass(
        self,
        side: SideStream,
        batch: ImageTextBatch,
        student_images: Tensor,
        text_embeds: Tensor,
        masked: tuple[MaskedTokens, Tensor] | None,
    ) -> tuple[Candidates, Tensor | None, tuple[Tensor, Tensor] | None]:
        """Returns candidates by the momentum model's features, given `masked` its logits there, and embeddings if needed.

        Args:
            side: the stream of the momentum model.
            batch: B pairs.
            student_images: the student's embeddings (B, N, width) of the images.
            text_embeds: the student's embeddings (B, L, D) of the clean text.
            masked: the masked tokens, and the student's embeddings (B, L, D) of the masked text.
        """
        ids, embeds = [batch.token_ids], [text_embeds]
        if masked is not None:
            ids, embeds = [*ids, batch.masked_ids], [*embeds, masked[1]]
        with side.work(), self.momentum_modules(text_embeds) as modules:
            momentum = albef_of(modules)
            image_embeds = self.momentum_images(momentum, side, batch.images, student_images)
            clean, *changed = self.momentum_texts(momentum, side, ids, batch.token_mask, embeds)
            image_feat, text_feat = momentum.project_image(image_embeds), momentum.project_text(clean, batch.token_mask)
            logits = None
            if masked is not None:
                positions = masked[0].positions
                [hidden] = momentum.fuse(image_embeds, [FusionPass(changed[0], batch.token_mask, positions=positions)])
                logits = masked[0].logits(modules["mlm_head"], hidden)
        kept = (image_embeds, clean) if self.fuses_momentum else None
        side.join(image_feat, text_feat, logits, *(kept or ()))
        return self.gather_candidates(batch, image_feat, text_feat), logits, kept

    def loss_weights(self) -> dict[str, float]:
        """Returns the configured weights; the paper's are 1."""
        return {**super().loss_weights(), "mlm": self.config.mlm_weight}

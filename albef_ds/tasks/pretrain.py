"""Pretraining: ITC + MLM + ITM with momentum distillation (paper sections 3.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from albef_ds.common import comm
from albef_ds.config.schema import ComputeConfig, ModelConfig, PretrainConfig
from albef_ds.data.batch import ImageTextBatch
from albef_ds.models.albef import ALBEF
from albef_ds.models.fusion_pass import FusionPass
from albef_ds.models.heads import MLMHead, WordTarget
from albef_ds.models.losses.masked_language import masked_language_loss
from albef_ds.models.text_cache import TextCache
from albef_ds.tasks.base import Losses, Metrics
from albef_ds.tasks.contrastive import Candidates, ContrastiveTask
from albef_ds.tasks.side_stream import SideStream


@dataclass(frozen=True)
class _MaskedTokens:
    """Where MLM predicts. Hidden states come per `positions`; `of_states` picks the masked ones among them.

    A GPU is asked how many there are here, before the encoders have work for it, and not again.
    """

    positions: Tensor | None
    """int64 (B, Q): masked positions of each row first, then fillers; None: all L positions."""
    chosen: Tensor
    """int64 (M,): which of the B Q or B L states, row by row."""
    labels: Tensor
    """int64 (M,), row by row."""

    @classmethod
    def of(cls, mlm_labels: Tensor, only_masked: bool) -> _MaskedTokens:
        """From labels (B, L); `only_masked` asks for no other position's hidden state."""
        masked = mlm_labels >= 0
        positions = None
        if only_masked:
            widest = max(int(masked.sum(dim=1).max()), 1)
            positions = masked.int().argsort(dim=1, descending=True, stable=True)[:, :widest]
            mlm_labels = mlm_labels.gather(1, positions)
        labels = mlm_labels.flatten()
        chosen = (labels >= 0).nonzero().squeeze(1)
        return cls(positions, chosen, labels[chosen])

    def of_states(self, states: Tensor) -> Tensor:
        """(B, Q or L, D) -> the M masked ones (M, D)."""
        return states.flatten(0, 1).index_select(0, self.chosen)


class PretrainTask(ContrastiveTask):
    """`base`: the model and its MLM head, both with a momentum copy; beside it the ITM head and the temperature."""

    config: PretrainConfig

    def __init__(self, model: ModelConfig, compute: ComputeConfig, config: PretrainConfig, seed: int = 0) -> None:
        # Released training starts with random unit vectors in the queue, which act as negatives.
        super().__init__(model, compute, config, seed, start_filled=config.compat or not config.mask_unfilled_queue)
        self._text_cache = TextCache(self.model.encode_text, compute.cached_texts) if compute.cached_texts else None

    def distilled_modules(self, model: ModelConfig, compute: ComputeConfig) -> dict[str, nn.Module]:
        """The model and the MLM head."""
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
        """See `ContrastiveTask.knows_positives`; the released pretraining does not."""
        return self.config.mask_known_positives and not self.config.compat

    def schedule(self, epoch: float) -> dict[str, float]:
        """As for every contrastive task; `fuse` is 0 during `align_epochs` and 1 behind them."""
        return {**super().schedule(epoch), "fuse": float(epoch >= self.config.align_epochs)}

    def forward(
        self, batch: ImageTextBatch, *, alpha: float, random_negatives: float = 0.0, fuse: float = 1.0
    ) -> tuple[Losses, Metrics]:
        """Losses `itc`, `mlm`, `itm` of one micro-batch, and metrics.

        Args:
            batch: B pairs.
            alpha: weight of the momentum model's pseudo-targets.
            random_negatives: share of ITM negatives drawn uniformly.
            fuse: 0 leaves out everything but ITC; the other losses are then 0.

        Raises:
            ConfigError: image-text matching is trained and the batch has one pair, so no negative.
        """
        batch = self.same_length(batch)
        if not fuse:
            return self._align(batch, alpha)
        albef = self.model
        tokens = _MaskedTokens.of(batch.mlm_labels, self.compute.mlm_masked_only)
        side = self.side_stream(batch)
        image_embeds = albef.encode_image(batch.images)
        text_embeds, masked_embeds = self._encode_texts(batch)
        image_feat, text_feat = albef.project_image(image_embeds), albef.project_text(text_embeds, batch.token_mask)
        candidates, momentum_logits = self._momentum_pass(side, batch, tokens, alpha, text_embeds, masked_embeds)

        itc, sim_i2t, sim_t2i = self.contrast(batch, image_feat, text_feat, candidates, alpha)
        texts, images = self.draw_negatives(batch, candidates, sim_i2t, sim_t2i, random_negatives)
        gathered, positive, negatives = self.matching_passes(batch, image_embeds, text_embeds, texts, images)
        masked = FusionPass(masked_embeds, batch.token_mask, positive.image_index, tokens.positions)
        on_positive, on_negative, on_masked = albef.fuse(gathered, [positive, negatives, masked])
        itm, itm_accuracy = self.matching_loss(on_positive, on_negative)
        mlm, num_masked = self._predict_words(tokens, on_masked, momentum_logits, alpha)
        metrics = self.contrastive_metrics(sim_i2t, candidates, itm_accuracy)
        return {"itc": itc, "mlm": mlm, "itm": itm}, {**metrics, "masked_tokens": num_masked.double()}

    def _align(self, batch: ImageTextBatch, alpha: float) -> tuple[Losses, Metrics]:
        """ITC alone."""
        side = self.side_stream(batch)
        text_embeds = self._encode(batch.token_ids, batch.token_mask)
        image_feat = self.model.project_image(self.model.encode_image(batch.images))
        text_feat = self.model.project_text(text_embeds, batch.token_mask)
        candidates, _ = self._momentum_pass(side, batch, None, alpha, text_embeds, None)
        itc, sim_i2t, _ = self.contrast(batch, image_feat, text_feat, candidates, alpha)
        none = itc.new_zeros(())
        metrics = self.contrastive_metrics(sim_i2t, candidates, none)
        return {"itc": itc, "mlm": none, "itm": none}, {**metrics, "masked_tokens": none.double()}

    @property
    def _encode(self) -> Callable[[Tensor, Tensor], Tensor]:
        """`encode_text` of the student, or what remembers it."""
        return self._text_cache or self.model.encode_text

    def _encode_texts(self, batch: ImageTextBatch) -> tuple[Tensor, Tensor]:
        """Embeddings (B, L, D) of the clean and of the masked text."""
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
        tokens: _MaskedTokens | None,
        alpha: float,
        text_embeds: Tensor,
        masked_embeds: Tensor | None,
    ) -> tuple[Candidates, Tensor | None]:
        """The momentum model's features of the clean pair and, where `tokens` are given, its logits at the masked positions."""
        predicted = tokens if alpha > 0.0 else None
        with side.work(), self.momentum_precision(text_embeds) as twin:
            image_embeds = twin.encode_image(batch.images)
            if twin.text_encoder is self.model.text_encoder:  # frozen, hence shared: the embeddings are the student's
                side.follow()
                twin_text, twin_masked = text_embeds, masked_embeds
            elif predicted is not None:
                ids = torch.cat([batch.token_ids, batch.masked_ids])
                twin_text, twin_masked = twin.encode_text(ids, batch.token_mask.repeat(2, 1)).chunk(2)
            else:
                twin_text, twin_masked = twin.encode_text(batch.token_ids, batch.token_mask), None
            image_feat, text_feat = twin.project_image(image_embeds), twin.project_text(twin_text, batch.token_mask)
            momentum_logits = None
            if predicted is not None and twin_masked is not None:
                [hidden] = twin.fuse(image_embeds, [FusionPass(twin_masked, batch.token_mask, positions=predicted.positions)])
                momentum_logits = self._vocabulary_logits(self.momentum.modules["mlm_head"], hidden, predicted)
        side.join(image_feat, text_feat, momentum_logits)
        return self.gather_candidates(batch, image_feat, text_feat), momentum_logits

    def _vocabulary_logits(self, head: nn.Module, hidden: Tensor, tokens: _MaskedTokens) -> Tensor:
        """(M, V) at the masked tokens; the plain form computes every position's logits first, as released."""
        pick = tokens.of_states
        logits: Tensor = head(pick(hidden)) if self.compute.mlm_masked_only else pick(head(hidden))
        return logits

    def _predict_words(
        self, tokens: _MaskedTokens, hidden: Tensor, momentum_logits: Tensor | None, alpha: float
    ) -> tuple[Tensor, Tensor]:
        """MLM loss and the number of masked tokens of this rank."""
        if self.compute.wide_losses != "plain":
            fused = self.compute.wide_losses == "triton"
            total = self.mlm_head(tokens.of_states(hidden), WordTarget(tokens.labels, momentum_logits, alpha, fused)).sum()
        else:
            logits = self._vocabulary_logits(self.mlm_head, hidden, tokens)
            total = masked_language_loss(logits, tokens.labels, momentum_logits, alpha)
        num_masked = tokens.labels.new_full((), len(tokens.labels))
        divisor = num_masked.to(total.dtype)
        if self.config.gather_negatives:
            # One rank would divide by the tokens of the whole batch; data-parallel averaging divides by the ranks again.
            divisor = comm.all_reduce_sum(divisor.clone()) / comm.world_size()
        return total / divisor.clamp(min=1.0), num_masked

    def loss_weights(self) -> dict[str, float]:
        """As configured; the paper's are 1."""
        return {**super().loss_weights(), "mlm": self.config.mlm_weight}

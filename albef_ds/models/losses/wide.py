"""The two losses over thousands of columns, ITC against the queue and MLM over the vocabulary, by `compute.wide_losses`."""

from __future__ import annotations

import torch
from torch import Tensor

from albef_ds.config.schema import ComputeConfig
from albef_ds.models.heads import MaskedTokens, MLMHead
from albef_ds.models.losses.contrastive import contrastive_loss
from albef_ds.models.losses.distillation import distilled_cross_entropy
from albef_ds.models.losses.sliced import TORCH, TRITON, SlicedForm, soft_cross_entropy
from albef_ds.models.losses.sliced_problem import FeatureTeacher, LogitTeacher, Positives


class WideLosses:
    """Computes the losses from full rows of logits: the reference. Subclasses give the same numbers up to rounding."""

    needs_gpu = False
    recomputes_logits = False
    """True if the backward pass computes the logits again."""

    def contrastive(
        self,
        features: Tensor,
        features_m: Tensor,
        keys: Tensor,
        positives: Tensor,
        temperature: Tensor,
        alpha: float,
        count: int,
        excluded: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns `contrastive_loss`, and the student's logits (B, count) for the first `count` keys, without gradient."""
        loss, logits = contrastive_loss(features, features_m, keys, positives, temperature, alpha, excluded)
        return loss, logits[:, :count].detach()

    def masked_language(
        self, head: MLMHead, hidden: Tensor, tokens: MaskedTokens, momentum_logits: Tensor | None, alpha: float
    ) -> Tensor:
        """Returns the MLM loss with momentum distillation (paper eq. 3 and 7), summed over the M masked tokens.

        Args:
            head: the student's MLM head.
            hidden: fused states (B, Q or L, D).
            tokens: the masked ones among them.
            momentum_logits: (M, V), or None if alpha is 0.
            alpha: weight of the pseudo-targets.
        """
        return distilled_cross_entropy(tokens.logits(head, hidden), tokens.labels, momentum_logits, alpha).sum()


class SlicedLosses(WideLosses):
    """Computes the losses by slices of columns, with no full rows of logits but the momentum model's for MLM."""

    recomputes_logits = True

    def __init__(self, form: SlicedForm) -> None:
        self.form = form
        self.needs_gpu = form.needs_gpu

    def contrastive(
        self,
        features: Tensor,
        features_m: Tensor,
        keys: Tensor,
        positives: Tensor,
        temperature: Tensor,
        alpha: float,
        count: int,
        excluded: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        assert excluded is None, "the settings allow excluded columns with plain losses only"
        with torch.autocast(features.device.type, enabled=False):
            teacher = FeatureTeacher(features_m) if alpha > 0.0 else None
            mask = Positives(mask=positives)
            loss = soft_cross_entropy(features, keys, None, 1.0 / temperature, mask, teacher, alpha, form=self.form)
            return loss.mean(), (features @ keys[:count].T / temperature).detach()

    def masked_language(
        self, head: MLMHead, hidden: Tensor, tokens: MaskedTokens, momentum_logits: Tensor | None, alpha: float
    ) -> Tensor:
        teacher = None if momentum_logits is None else LogitTeacher(momentum_logits)
        labels = Positives(labels=tokens.labels)

        def loss(states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            with torch.autocast(states.device.type, enabled=False):
                one = torch.ones(1, dtype=torch.float32, device=states.device)
                return soft_cross_entropy(states, weight, bias, one, labels, teacher, alpha, form=self.form)

        return head.decoder(head.transform(tokens.of_states(hidden)), loss).sum()


FORMS = {"plain": WideLosses(), "sliced": SlicedLosses(TORCH), "triton": SlicedLosses(TRITON)}


def wide_losses(compute: ComputeConfig) -> WideLosses:
    """Returns the implementation of both losses that `compute.wide_losses` names."""
    return FORMS[compute.wide_losses]

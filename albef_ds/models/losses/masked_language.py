"""Masked language modelling with momentum distillation (paper section 3.2 eq. 3, section 3.3 eq. 7)."""

from __future__ import annotations

from torch import Tensor

from albef_ds.models.losses.distillation import distilled_cross_entropy


def masked_language_loss(logits: Tensor, labels: Tensor, momentum_logits: Tensor | None, alpha: float) -> Tensor:
    """(1 - alpha) * cross-entropy + alpha * KL-style soft cross-entropy to the momentum model, per masked token.

    Args:
        logits: (M, V) at the masked positions.
        labels: int64 (M,), all valid.
        momentum_logits: (M, V), or None where alpha is 0.
        alpha: weight of the pseudo-targets.

    Returns:
        The sum over the M tokens; the caller divides by the count it means (local or global).
    """
    return distilled_cross_entropy(logits, labels, momentum_logits, alpha).sum()

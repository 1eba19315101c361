"""Image-text contrastive learning with momentum distillation (paper section 3.2 eq. 1-2, section 3.3 eq. 6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mixed_targets(momentum_logits: Tensor, positives: Tensor, alpha: float) -> Tensor:
    """Returns alpha * softmax(momentum logits) + (1 - alpha) * positives, with rows of sum 1 (eq. 6).

    Args:
        momentum_logits: (B, K).
        positives: bool (B, K), at least one true per row; several have equal weights.
        alpha: weight of the pseudo-targets.
    """
    ground_truth = positives.to(momentum_logits.dtype)
    ground_truth = ground_truth / ground_truth.sum(dim=1, keepdim=True)
    if alpha == 0.0:
        return ground_truth
    return alpha * F.softmax(momentum_logits, dim=1) + (1.0 - alpha) * ground_truth


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean over rows of -sum(targets * log_softmax(logits))."""
    return -(F.log_softmax(logits, dim=1) * targets).sum(dim=1).mean()


def consistency_loss(logits_i2t: Tensor, logits_t2i: Tensor) -> Tensor:
    """Returns the cross-entropy of each direction of ITC to the probabilities of the other, which are not differentiated.

    Row i of both is pair i, over the same K pairs: (B, K). Source: GRIT-VLP (arXiv 2208.04060), whose code weighs it with 0.2.
    """
    to_text = soft_cross_entropy(logits_i2t, F.softmax(logits_t2i.detach(), dim=1))
    return (to_text + soft_cross_entropy(logits_t2i, F.softmax(logits_i2t.detach(), dim=1))) / 2


def contrastive_loss(
    features: Tensor,
    momentum_features: Tensor,
    keys: Tensor,
    positives: Tensor,
    temperature: Tensor,
    alpha: float,
    excluded: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One direction of ITC: features of one modality against momentum features of the other.

    Args:
        features: (B, E), unit length, from the student.
        momentum_features: (B, E) of the same modality, from the momentum model.
        keys: (K, E) momentum features of the other modality: the batch, then the queue.
        positives: bool (B, K).
        temperature: (1,), learned.
        alpha: weight of the pseudo-targets.
        excluded: bool (B, K), keys that a row is not contrasted with, none of its positives; None: none.

    Returns:
        The loss, and the student's logits (B, K).
    """
    # Similarities rounded to bf16 reduce recall, so autocast is disabled.
    with torch.autocast(features.device.type, enabled=False):
        logits = features @ keys.T / temperature
        with torch.no_grad():
            momentum_logits = momentum_features @ keys.T / temperature
            if excluded is not None:
                momentum_logits = without(momentum_logits, excluded)
            targets = mixed_targets(momentum_logits, positives, alpha)
        contrasted = logits if excluded is None else without(logits, excluded)
        return soft_cross_entropy(contrasted, targets), logits


def without(logits: Tensor, excluded: Tensor) -> Tensor:
    """Returns `logits` with a probability of 0 for the `excluded`. Finite, since infinity times a target of 0 is not a number."""
    return logits.masked_fill(excluded, torch.finfo(logits.dtype).min / 2)

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


def contrastive_loss(
    features: Tensor, momentum_features: Tensor, keys: Tensor, positives: Tensor, temperature: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    """One direction of ITC: features of one modality against momentum features of the other.

    Args:
        features: (B, E), unit length, from the student.
        momentum_features: (B, E) of the same modality, from the momentum model.
        keys: (K, E) momentum features of the other modality: the batch, then the queue.
        positives: bool (B, K).
        temperature: (1,), learned.
        alpha: weight of the pseudo-targets.

    Returns:
        The loss, and the student's logits (B, K).
    """
    # Similarities rounded to bf16 reduce recall, so autocast is disabled.
    with torch.autocast(features.device.type, enabled=False):
        logits = features @ keys.T / temperature
        with torch.no_grad():
            targets = mixed_targets(momentum_features @ keys.T / temperature, positives, alpha)
        return soft_cross_entropy(logits, targets), logits

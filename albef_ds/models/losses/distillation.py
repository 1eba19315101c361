"""Cross-entropy with momentum distillation per row, for MLM and the fine-tuning tasks (paper section 3.3, eq. 7)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from albef_ds.models.precision import at_least_fp32


def distilled_cross_entropy(logits: Tensor, labels: Tensor, momentum_logits: Tensor | None, alpha: float) -> Tensor:
    """Returns (1 - alpha) * cross-entropy + alpha * soft cross-entropy to the momentum model's softmax.

    Args:
        logits: (M, C).
        labels: int64 (M,), all valid.
        momentum_logits: (M, C), or None if alpha is 0.
        alpha: weight of the pseudo-targets.

    Returns:
        (M,), fp32 or better.
    """
    log_probs = F.log_softmax(at_least_fp32(logits), dim=-1)
    loss = F.nll_loss(log_probs, labels, reduction="none")
    if momentum_logits is None or alpha == 0.0:
        return loss
    with torch.no_grad():
        targets = torch.softmax(momentum_logits, dim=-1, dtype=log_probs.dtype)
    return (1.0 - alpha) * loss - alpha * (log_probs * targets).sum(dim=-1)

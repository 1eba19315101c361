"""Which negatives are likely false ones: pairs that the momentum model takes for matching."""

from __future__ import annotations

import torch
from torch import Tensor


def probability_against_own(logits: Tensor, own: Tensor) -> Tensor:
    """Returns the probability of each candidate against the row's own pair, in (0, 1): 1/2 where both are as similar.

    Args:
        logits: (B, K), similarities by their temperature.
        own: int64 (B,), the column of each row's own pair.
    """
    return torch.sigmoid(logits - logits.gather(1, own[:, None]))


def likely_false(probability: Tensor, threshold: float, uniform: Tensor) -> Tensor:
    """Returns bool, true where `probability` is at least `threshold`, or with a threshold of 0 above the number in `uniform`."""
    return probability >= threshold if threshold > 0.0 else uniform < probability

"""Scaled dot-product attention in two forms of equal numerics, and the choice between them.

`sdpa` is torch's fused kernel; `plain` writes the two matrix products out. On GPUs the fused kernel wins and never
stores the score matrix. On CPUs the plain form is faster at the sizes of this model (benchmarks/attention.md), so
`auto` decides per device when a layer runs.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Implementation = Literal["auto", "sdpa", "plain"]


def uses_sdpa(implementation: Implementation, device: torch.device) -> bool:
    """Whether attention on `device` takes the fused kernel."""
    return implementation == "sdpa" or (implementation == "auto" and device.type != "cpu")


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    dropout: float = 0.0,
    implementation: Implementation = "auto",
) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V, the softmax in fp32.

    Args:
        query: (B, heads, Q, d).
        key: (B, heads, K, d).
        value: (B, heads, K, d).
        mask: bool, broadcastable to (B, heads, Q, K), true where attention is allowed; every row allows something.
        dropout: probability applied to the attention weights; pass 0 in eval mode.
        implementation: see the module docstring.

    Returns:
        (B, heads, Q, d) in the dtype of `query`.
    """
    if uses_sdpa(implementation, query.device):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    weights = F.dropout(weights.to(value.dtype), dropout, training=dropout > 0.0)
    return weights @ value


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, L, D) -> (B, heads, L, D / heads)."""
    batch, length, width = x.shape
    return x.view(batch, length, num_heads, width // num_heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, L, d) -> (B, L, heads * d)."""
    return x.transpose(1, 2).flatten(2)

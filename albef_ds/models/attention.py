"""Scaled dot-product attention in two equivalent implementations, and the choice between them.

`sdpa` is torch's fused kernel; `plain` computes the two matrix products explicitly. On a GPU, `auto` uses the fused kernel, which
never stores the score matrix. On a CPU it depends on the call; measured time of `sdpa` divided by that of `plain`, one thread of
an AVX-512 Xeon without bf16 units (benchmarks/attention.md):

    |                            | fp32        | bf16      |
    | with gradient              | 0.98 - 1.45 | 0.78 - 10 |
    | without, 257 keys          | 0.61 - 0.79 | 0.37-0.46 |
    | without, 12 to 37 keys     | 1.09 - 1.16 | 0.71-0.98 |

So on a CPU `auto` uses `plain` with gradients, and without them (momentum model, evaluation) `sdpa`, except for few keys in fp32.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Implementation = Literal["auto", "sdpa", "plain"]

_MANY_KEYS = 128
"""Number of keys from which the fused kernel is used in fp32 without gradient: between the measured 37 and 257."""


def uses_sdpa(implementation: Implementation, query: Tensor, num_keys: int) -> bool:
    """Returns whether attention from `query` uses the fused kernel; only its device, dtype and `requires_grad` matter."""
    if implementation != "auto":
        return implementation == "sdpa"
    if query.device.type != "cpu":
        return True
    return not query.requires_grad and (num_keys >= _MANY_KEYS or query.dtype.itemsize < 4)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    dropout: float = 0.0,
    implementation: Implementation = "auto",
) -> Tensor:
    """Returns softmax(Q K^T / sqrt(d)) V, with the softmax in fp32.

    Args:
        query: (B, heads, Q, d).
        key: (B, heads, K, d).
        value: (B, heads, K, d).
        mask: bool, broadcastable to (B, heads, Q, K), true where attention is allowed, at least once per row.
        dropout: probability applied to the attention weights; pass 0 in eval mode.
        implementation: see the module docstring.

    Returns:
        (B, heads, Q, d) in the dtype of `query`.
    """
    if uses_sdpa(implementation, query, key.shape[-2]):
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

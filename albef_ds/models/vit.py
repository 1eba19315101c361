"""The visual encoder: a ViT (paper section 3.1).

It computes the same as timm's `VisionTransformer`, with the same parameter names up to the prefix `embed.`, so DeiT weights can
be loaded. timm itself is not imported, since that imports torchvision and torch's compiler and takes as long as torch's import.
Class token, position table and patch projection are in a separate module (`ImageEmbedding`), since sharding the momentum copy
needs all parameters that are used at the same time in one module.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from albef_ds.config.schema import ComputeConfig, VisionConfig
from albef_ds.models.attention import uses_sdpa
from albef_ds.models.bert import run_layer


class PatchEmbed(nn.Module):
    """One linear projection of each patch."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, patches, width)."""
        return self.proj(images).flatten(2).transpose(1, 2)


class ConvolutionStem(nn.Module):
    """Stride-2 3x3 convolutions to one token per patch, which learn faster than a patch projection on little data."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        num_layers = config.patch_size.bit_length() - 1
        widths = [3] + [max(32, config.width >> (num_layers - 1 - i)) for i in range(num_layers)]
        layers: list[nn.Module] = []
        for in_width, out_width in pairwise(widths):
            layers += [nn.Conv2d(in_width, out_width, 3, stride=2, padding=1), nn.GroupNorm(1, out_width), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-2], nn.Conv2d(widths[-1], config.width, 1))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, tokens, width)."""
        return self.layers(images).flatten(2).transpose(1, 2)


class ImageEmbedding(nn.Module):
    """Patches, class token and learned positions: (B, 3, H, W) -> (B, 1 + patches, width)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_embed: nn.Module
        if config.stem == "patch":
            self.patch_embed = PatchEmbed(config.patch_size, config.width)
        else:
            self.patch_embed = ConvolutionStem(config)
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.empty(1, config.num_tokens, config.width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws class token and positions at random."""
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, N, width), [CLS] first."""
        patches = self.patch_embed(images.to(self.cls_token.dtype))
        return torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1) + self.pos_embed


class _LayerNorm(nn.LayerNorm):
    """LayerNorm with the epsilon of ViT and DeiT."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(width, eps=1e-6, **kwargs)


class Attention(nn.Module):
    """Multi-head self-attention; `fused_attn` selects torch's fused kernel instead of two matrix products."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.fused_attn = True
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        batch, length, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, length, 3, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        if self.fused_attn:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
            mixed = scores.softmax(dim=-1) @ value
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden_width)
        self.fc2 = nn.Linear(hidden_width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = _LayerNorm(config.width)
        self.attn = Attention(config.width, config.num_heads)
        self.norm2 = _LayerNorm(config.width)
        self.mlp = Mlp(config.width, int(config.width * config.mlp_ratio))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class VisualEncoder(nn.Module):
    """ViT that returns all tokens after the final norm."""

    def __init__(self, config: VisionConfig, compute: ComputeConfig) -> None:
        super().__init__()
        self.implementation = compute.attention
        self.recompute = compute.checkpoint_visual
        self.embed = ImageEmbedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = _LayerNorm(config.width)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> image embeddings (B, N, width), [CLS] first."""
        tokens = self.embed(images)
        fused = uses_sdpa(self.implementation, tokens, tokens.shape[1])
        for block in self.blocks:
            block.attn.fused_attn = fused  # type: ignore[union-attr]
            tokens = run_layer(block, self.recompute, tokens)
        return self.norm(tokens)


def init_vit_weights(module: nn.Module) -> None:
    """Sets ViT's initial weights of one module: truncated normal(0, 0.02) matrices, zero biases, unit norms."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
    if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
        nn.init.zeros_(module.bias)

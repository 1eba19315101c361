"""Grad-CAM of the matching score: the parts of an image that a text refers to (paper section 5, visual grounding).

Positive gradients of the ITM score times the cross-attention weights of one multimodal layer, averaged over its heads. The paper
uses the third of six layers (block 8 of 12, counted from 0). Boxes and heat-map images are made elsewhere.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from albef_ds.common.errors import ConfigError, DataError
from albef_ds.models.albef import ALBEF
from albef_ds.models.attention import Implementation
from albef_ds.models.bert import CrossAttention, FusionLayer
from albef_ds.models.fusion_pass import FusionPass


def middle_layer(albef: ALBEF) -> int:
    """Returns the index of the default layer: the third of six as in the paper, the second of three."""
    return (len(albef.multimodal_encoder.layers) - 1) // 2


@dataclass(frozen=True)
class GradCam:
    """Unscaled heat maps over the h x w patches of B images."""

    tokens: Tensor
    """(B, L, h, w): one map per token, [CLS] included; 0 at padding."""
    sentence: Tensor
    """(B, h, w): mean over a text's tokens, [CLS] included, as released."""
    scores: Tensor
    """(B,): the ITM logit of "match"."""


def itm_gradcam(
    albef: ALBEF, itm_head: nn.Module, image_embeds: Tensor, text_embeds: Tensor, token_mask: Tensor, layer: int | None = None
) -> GradCam:
    """Returns Grad-CAM of the ITM score of B pairs.

    Args:
        albef: in eval mode, with full parameters; their gradients are not changed.
        itm_head: (B, D) -> (B, 2).
        image_embeds: (B, N, width) from `encode_image`; needs no graph.
        text_embeds: (B, L, D) from `encode_text`; needs no graph.
        token_mask: bool (B, L).
        layer: multimodal layer, from 0; negative counts from the end; None: the middle one.

    Raises:
        UserError: the model has no such layer, or its patches are no square grid.
    """
    layers = albef.multimodal_encoder.layers
    layer = middle_layer(albef) if layer is None else layer
    if not -len(layers) <= layer < len(layers):
        raise ConfigError(f"layer {layer} does not exist: the multimodal encoder has layers 0 to {len(layers) - 1}")
    chosen = layers[layer]
    assert isinstance(chosen, FusionLayer)
    side = math.isqrt(image_embeds.shape[1] - 1)
    if side * side != image_embeds.shape[1] - 1:
        raise DataError(f"{image_embeds.shape[1] - 1} patches are no square grid: use square images")
    with torch.enable_grad(), kept_weights(chosen.cross_attention) as kept:
        [hidden] = albef.fuse(image_embeds, [FusionPass(text_embeds, token_mask)])
        scores = itm_head(hidden[:, 0])[:, 1]
        [weights] = kept
        [gradients] = torch.autograd.grad(scores.sum(), [weights])
    maps = (weights.detach() * gradients.clamp(min=0))[..., 1:].mean(dim=1)  # without the image's [CLS], which has no position
    maps = maps * token_mask[..., None]
    sentence = maps.sum(dim=1) / token_mask.sum(dim=1, keepdim=True)
    return GradCam(
        tokens=maps.reshape(*maps.shape[:2], side, side),
        sentence=sentence.reshape(-1, side, side),
        scores=scores.detach(),
    )


def ground_text(
    albef: ALBEF, itm_head: nn.Module, images: Tensor, token_ids: Tensor, token_mask: Tensor, layer: int | None = None
) -> GradCam:
    """Returns `itm_gradcam` of images float32 (B, 3, H, W) and texts int64 (B, L), bool (B, L)."""
    with torch.no_grad():
        image_embeds, text_embeds = albef.encode_image(images), albef.encode_text(token_ids, token_mask)
    return itm_gradcam(albef, itm_head, image_embeds, text_embeds, token_mask, layer)


@contextlib.contextmanager
def kept_weights(attention: CrossAttention) -> Iterator[list[Tensor]]:
    """Collects the attention weights (B, heads, L, N) of each call of `attention` inside the block, as part of the graph."""
    kept: list[Tensor] = []

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        *,
        dropout: float = 0.0,
        implementation: Implementation = "auto",
    ) -> Tensor:
        del dropout, implementation
        assert mask is None, "image tokens are never hidden"
        weights = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]), dim=-1)
        if not weights.requires_grad:  # all earlier layers are frozen
            weights.requires_grad_()
        kept.append(weights)
        return weights @ value

    before = attention.attend
    attention.attend = attend
    try:
        yield kept
    finally:
        attention.attend = before

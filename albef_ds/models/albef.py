"""ALBEF: two unimodal encoders, a multimodal encoder and two projections (paper section 3.1), without objectives."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from albef_ds.config.schema import ComputeConfig, ModelConfig
from albef_ds.models.bert import MultimodalEncoder, TextEncoder
from albef_ds.models.fusion_pass import FusionPass
from albef_ds.models.precision import at_least_fp32
from albef_ds.models.vit import VisualEncoder


class ALBEF(nn.Module):
    """The model of every task. Tasks call its methods; it has no `forward`."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig, *, projections: bool = True, num_images: int = 1) -> None:
        """Leaves torch's initial weights, which `models/random_weights.py` replaces.

        Without `projections` there are no ITC features; `num_images` images are fused with each text.
        """
        super().__init__()
        self.config = config
        self.visual_encoder = VisualEncoder(config.vision, compute)
        self.text_encoder = TextEncoder(config.text, compute)
        self.multimodal_encoder = MultimodalEncoder(config.text, compute, config.vision.width, num_images)
        if projections:
            self.vision_proj = nn.Linear(config.vision.width, config.embed_dim)
            self.text_proj = nn.Linear(config.text.width, config.embed_dim)
        for part in self.frozen_parts():
            part.requires_grad_(False)

    def frozen_parts(self) -> list[nn.Module]:
        """Returns the encoders whose weights are not trained."""
        vision, text = self.config.vision, self.config.text
        parts: list[tuple[nn.Module, bool]] = [
            (self.visual_encoder, vision.frozen),
            (self.text_encoder, text.frozen),
            (self.multimodal_encoder, text.fusion_frozen),
        ]
        return [part for part, frozen in parts if frozen]

    def layers_below_top(self, name: str) -> int:
        """Returns the number of layers between a parameter and the heads, by its name in this module.

        The image encoder's blocks are one stack; the text encoder's layers and, above them, the multimodal layers are another.
        Embeddings are below the first layer. Projections and the image encoder's last norm are at the top: 0.
        """
        part, _, rest = name.partition(".")
        found = re.match(r"(blocks|layers)\.(\d+)\.", rest)
        if part == "visual_encoder":
            depth, above = self.config.vision.depth, 0
        elif part == "text_encoder":
            depth, above = self.config.text.num_layers, self.config.text.num_fusion_layers
        elif part == "multimodal_encoder" and found:
            return self.config.text.num_fusion_layers - int(found[2]) // self.multimodal_encoder.num_images
        else:
            return 0
        if found:
            return above + depth - int(found[2])
        return above + depth + 1 if rest.startswith("embed") else 0

    def train(self, mode: bool = True) -> ALBEF:
        """Sets the mode, but keeps frozen parts in eval mode: dropout only adds noise to weights that cannot adapt."""
        super().train(mode)
        for part in self.frozen_parts():
            part.eval()
        return self

    def encode_image(self, images: Tensor) -> Tensor:
        """float (B, 3, H, W) -> image embeddings (B, N, vision width), [CLS] first."""
        return self.visual_encoder(images)

    def encode_text(self, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        """int64 (B, L), bool (B, L) -> text embeddings (B, L, text width), [CLS] first."""
        return self.text_encoder(token_ids, token_mask)

    def project_image(self, image_embeds: Tensor) -> Tensor:
        """Image embeddings (B, N, width) -> unit-length ITC features (B, embed_dim), at least fp32."""
        return _normalize(self.vision_proj(image_embeds[:, 0]))

    def project_text(self, text_embeds: Tensor, token_mask: Tensor) -> Tensor:
        """Text embeddings (B, L, width), bool (B, L) -> unit-length ITC features (B, embed_dim), at least fp32."""
        if self.config.text.pooling == "cls":
            return _normalize(self.text_proj(text_embeds[:, 0]))
        weights = token_mask.to(text_embeds.dtype)[..., None]
        return _normalize(self.text_proj((text_embeds * weights).sum(dim=1) / weights.sum(dim=1)))

    def fuse(self, image_embeds: Tensor, passes: Sequence[FusionPass]) -> list[Tensor]:
        """Returns the multimodal embeddings per pass, (R, L, D) or (R, Q, D) at a pass's positions."""
        return self.multimodal_encoder(image_embeds, passes)


def _normalize(features: Tensor) -> Tensor:
    return F.normalize(at_least_fp32(features), dim=-1)

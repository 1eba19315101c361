"""The exported programs as modules that take and return tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from albef_ds.models.albef import ALBEF
from albef_ds.models.fusion_pass import FusionPass


class ImageTower(nn.Module):
    """Maps images to ITC features and to the embeddings that the matcher takes."""

    def __init__(self, albef: ALBEF) -> None:
        super().__init__()
        self.albef = albef

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised float32 (B, 3, S, S) -> features (B, E) of unit length, embeddings (B, N, W)."""
        embeds = self.albef.encode_image(images)
        return self.albef.project_image(embeds), embeds


class TextTower(nn.Module):
    """Maps token ids to ITC features and to the embeddings that the matcher takes."""

    def __init__(self, albef: ALBEF) -> None:
        super().__init__()
        self.albef = albef

    def forward(self, token_ids: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        """int64 (B, L), bool (B, L) true at tokens -> features (B, E) of unit length, embeddings (B, L, D)."""
        embeds = self.albef.encode_text(token_ids, token_mask)
        return self.albef.project_text(embeds, token_mask), embeds


class Matcher(nn.Module):
    """Maps pairs of embeddings to the ITM probability that they match."""

    def __init__(self, albef: ALBEF, itm_head: nn.Module) -> None:
        super().__init__()
        self.albef, self.itm_head = albef, itm_head

    def forward(self, image_embeds: Tensor, text_embeds: Tensor, token_mask: Tensor) -> Tensor:
        """(B, N, W), (B, L, D), bool (B, L) -> probability (B,)."""
        [hidden] = self.albef.fuse(image_embeds, [FusionPass(text_embeds, token_mask)])
        probability: Tensor = torch.softmax(self.itm_head(hidden[:, 0]), dim=-1)[:, 1]
        return probability


@dataclass(frozen=True)
class ProgramSpec:
    """One exported program."""

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def program_specs(albef: ALBEF, itm_head: nn.Module) -> tuple[ProgramSpec, ...]:
    """The two towers and the matcher."""
    return (
        ProgramSpec("image", ImageTower(albef), ("images",), ("image_features", "image_embeds")),
        ProgramSpec("text", TextTower(albef), ("token_ids", "token_mask"), ("text_features", "text_embeds")),
        ProgramSpec("match", Matcher(albef, itm_head), ("image_embeds", "text_embeds", "token_mask"), ("match",)),
    )

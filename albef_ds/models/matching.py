"""Matching logits (ITM, paper section 3.2) of many pairs of images and texts, for evaluation and inference.

A pair costs its text's tokens and nothing for padding; an image's keys and values are projected once and never copied. Which
pairs are judged, and on which rank, is decided elsewhere (`albef_ds/metrics/shortlists.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from albef_ds.models.albef import ALBEF
from albef_ds.models.fusion_pass import FusionPass, TextsPerImage
from albef_ds.models.packing import Packing


@dataclass(frozen=True)
class PackedTexts:
    """Text embeddings without padding."""

    embeds: Tensor
    """(T, D): the tokens of the first text, then those of the second, and so on."""
    lengths: Tensor
    """int64 (N,), on the CPU: number of tokens of each text."""

    @classmethod
    def of(cls, embeds: Tensor, mask: Tensor) -> PackedTexts:
        """Returns the texts (N, L, D) whose first tokens are true in `mask` bool (N, L)."""
        return cls(embeds[mask], mask.sum(dim=1).cpu())


def match_logits(
    albef: ALBEF, itm_head: nn.Module, image_embeds: Tensor, texts: PackedTexts, chosen: Sequence[Sequence[int]]
) -> Tensor:
    """Returns float32 (R, 2), the logits (no match, match) of every image with each of its texts, image by image.

    Args:
        albef: in eval mode.
        itm_head: linear head over the multimodal [CLS].
        image_embeds: (B, N, width).
        texts: all texts, on the device of the images.
        chosen: numbers of the texts of each of the B images, at least one for each.
    """
    device, numbers = image_embeds.device, torch.tensor([text for row in chosen for text in row])
    lengths = texts.lengths[numbers]
    longest, starts = int(lengths.max()), texts.lengths.cumsum(0) - texts.lengths
    # The token of each pair: where its text begins, and its number within the text.
    within = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    tokens = starts[numbers].repeat_interleave(lengths) + within
    counts = tuple(len(row) for row in chosen)
    index = TextsPerImage(counts, tuple(int(part.sum()) for part in torch.split(lengths, list(counts))))
    item = FusionPass(
        text_embeds=texts.embeds[tokens.to(device)],
        token_mask=(torch.arange(longest) < lengths[:, None]).to(device),
        image_index=(index,),
        positions=torch.zeros(len(numbers), 1, dtype=torch.int64, device=device),
        packing=Packing.of_lengths(lengths.tolist(), device),
    )
    [hidden] = albef.fuse(image_embeds, [item])
    logits: Tensor = itm_head(hidden[:, 0]).float()
    return logits

"""Which texts meet which images in the multimodal encoder: what its layers are told besides tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from albef_ds.models.packing import Packing, packed, unpacked

ImageIndex = Tensor | range | None
"""Which images a part of the texts meets, one each: those at int64 positions, neighbours, or all in their order."""


def select_images(images: Tensor, index: ImageIndex) -> Tensor:
    """The images (B, ...) that `index` names; nothing is copied where they lie side by side."""
    if index is None:
        return images
    return images[index.start : index.stop] if isinstance(index, range) else images.index_select(0, index)


def parts_by_images(image_index: Sequence[ImageIndex]) -> list[tuple[ImageIndex, list[int]]]:
    """The numbers of the parts that meet the same images in the same order; positions are not compared."""
    groups: dict[object, tuple[ImageIndex, list[int]]] = {}
    for part, index in enumerate(image_index):
        same = ("positions of part", part) if isinstance(index, Tensor) else index
        groups.setdefault(same, (index, []))[1].append(part)
    return list(groups.values())


def cat(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """`torch.cat` that leaves a single part as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=dim)


def split(whole: Tensor, num_parts: int, dim: int = 0) -> list[Tensor]:
    """Equal parts. A single one is the whole itself: a division would bind an exported program to the size that it saw."""
    if num_parts == 1:
        return [whole]
    size, rest = divmod(whole.shape[dim], num_parts)
    assert rest == 0, f"{whole.shape[dim]} rows are not {num_parts} equal parts"
    return list(torch.split(whole, size, dim=dim))


@dataclass(frozen=True)
class FusionPass:
    """R texts to be fused with images of the same call.

    `text_embeds` (R, L, D) and `token_mask` bool (R, L). The rows come in as many equal parts as `image_index` has entries;
    row i of a part meets image i of those that its entry names. `positions` int64 (R, Q) names the tokens whose output is
    wanted; None: all. `causal` masks the future (answer decoder). With a `packing` the `text_embeds` are the tokens (T, D)
    that it keeps.
    """

    text_embeds: Tensor
    token_mask: Tensor
    image_index: tuple[ImageIndex, ...] = (None,)
    positions: Tensor | None = None
    causal: bool = False
    packing: Packing | None = None

    def with_packing(self) -> FusionPass:
        """The same without padding."""
        packing = Packing.of(self.token_mask)
        return replace(self, text_embeds=packed(self.text_embeds, packing), packing=packing)

    def with_padding(self) -> FusionPass:
        """The same with `text_embeds` (R, L, D)."""
        return replace(self, text_embeds=unpacked(self.text_embeds, self.packing), packing=None)

    @property
    def attention_mask(self) -> Tensor:
        """bool (R, 1, 1 or L, L)."""
        mask = self.token_mask[:, None, None, :]
        if not self.causal:
            return mask
        length = self.token_mask.shape[1]
        return mask & torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()


def concatenate(passes: Sequence[FusionPass]) -> FusionPass:
    """Passes of one text length as one; their parts are of one size. What they want of the last layer is not kept."""
    assert len({item.causal for item in passes}) == 1, "causal and bidirectional passes cannot share a call"
    assert len({item.token_mask.shape[0] / len(item.image_index) for item in passes}) == 1, "parts differ in size"
    return FusionPass(
        text_embeds=torch.cat([item.text_embeds for item in passes]),
        token_mask=torch.cat([item.token_mask for item in passes]),
        image_index=tuple(index for item in passes for index in item.image_index),
        causal=passes[0].causal,
    )

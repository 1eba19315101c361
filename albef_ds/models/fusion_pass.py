"""Describes how texts and images are paired in the multimodal encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from albef_ds.models.packing import Packing, packed, unpacked


@dataclass(frozen=True)
class TextsPerImage:
    """The texts of the first image, then those of the second, and so on; all of an image become queries of one call."""

    rows: tuple[int, ...]
    """Number of texts of each image."""
    tokens: tuple[int, ...]
    """Number of their tokens without padding."""


ImageIndex = Tensor | range | TextsPerImage | None
"""The images of a part of the texts, one each: by int64 indices, a range of consecutive ones, or (None) all in order.

`TextsPerImage` is for a pass that is one part.
"""


def select_images(images: Tensor, index: ImageIndex) -> Tensor:
    """Returns the images (B, ...) at `index`, as a view if they are consecutive."""
    if index is None:
        return images
    if isinstance(index, TextsPerImage):
        return images.repeat_interleave(torch.tensor(index.rows, device=images.device), dim=0, output_size=sum(index.rows))
    return images[index.start : index.stop] if isinstance(index, range) else images.index_select(0, index)


def parts_by_images(image_index: Sequence[ImageIndex]) -> list[tuple[ImageIndex, list[int]]]:
    """Groups the numbers of the parts with the same images in the same order; index tensors are not compared."""
    groups: dict[object, tuple[ImageIndex, list[int]]] = {}
    for part, index in enumerate(image_index):
        same = ("positions of part", part) if isinstance(index, Tensor) else index
        groups.setdefault(same, (index, []))[1].append(part)
    return list(groups.values())


def cat(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Returns `torch.cat` of the parts, or a single part itself."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=dim)


def split(whole: Tensor, num_parts: int, dim: int = 0) -> list[Tensor]:
    """Returns equal parts, for one part `whole` itself: a division would bind an exported program to the traced size."""
    if num_parts == 1:
        return [whole]
    size, rest = divmod(whole.shape[dim], num_parts)
    assert rest == 0, f"{whole.shape[dim]} rows are not {num_parts} equal parts"
    return list(torch.split(whole, size, dim=dim))


@dataclass(frozen=True)
class FusionPass:
    """R texts to be fused with images of the same call.

    `text_embeds` (R, L, D) and `token_mask` bool (R, L). The rows are as many equal parts as `image_index` has entries; row i
    of a part is fused with image i of its entry. `positions` int64 (R, Q) selects the tokens to output; None: all. `causal`
    masks later tokens (answer decoder). With `packing`, `text_embeds` are the packed tokens (T, D).
    """

    text_embeds: Tensor
    token_mask: Tensor
    image_index: tuple[ImageIndex, ...] = (None,)
    positions: Tensor | None = None
    causal: bool = False
    packing: Packing | None = None

    def with_packing(self) -> FusionPass:
        """Returns the pass without padding."""
        if self.packing is not None:
            return self
        packing = Packing.of(self.token_mask)
        return replace(self, text_embeds=packed(self.text_embeds, packing), packing=packing)

    def with_padding(self) -> FusionPass:
        """Returns the pass with `text_embeds` (R, L, D)."""
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
    """Joins passes with one text length and parts of one size. `positions` is dropped."""
    assert len({item.causal for item in passes}) == 1, "causal and bidirectional passes cannot share a call"
    assert len({item.token_mask.shape[0] / len(item.image_index) for item in passes}) == 1, "parts differ in size"
    return FusionPass(
        text_embeds=torch.cat([item.text_embeds for item in passes]),
        token_mask=torch.cat([item.token_mask for item in passes]),
        image_index=tuple(index for item in passes for index in item.image_index),
        causal=passes[0].causal,
    )

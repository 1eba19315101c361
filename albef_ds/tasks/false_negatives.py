"""What a batch's likely false negatives become: left out, or positives (after MAFA, Byun et al. 2024, arXiv 2312.06112).

The momentum model decides, by its ITM probability of the drawn negatives or by its ITC probability of every candidate against the
row's own pair. Known ones, of the same image or caption, are handled in `contrastive.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class LikelyFalse:
    """Likely false negatives of one batch, and what becomes of them."""

    i2t: Tensor
    """bool (B, K) over an image's texts: the candidates, then the queue."""
    t2i: Tensor
    """bool (B, K) over a text's images."""
    drawn: Tensor | None
    """bool (2B,): of the drawn negatives, as ITM orders them; None: none of these is drawn."""
    are_positives: bool
    """True if they become positives; False: neither positives nor negatives."""

    def at(self, texts: Tensor, images: Tensor) -> LikelyFalse:
        """Returns a copy with `drawn`: a row whose candidates are all likely false ones has drawn one nevertheless."""
        rows = torch.arange(len(texts), device=texts.device)
        return replace(self, drawn=torch.cat([self.t2i[rows, images], self.i2t[rows, texts]]))


@dataclass(frozen=True)
class Contrast:
    """ITC's loss, and the negatives that are drawn for ITM."""

    itc: Tensor
    sim_i2t: Tensor
    """(B, K): the student's logits against the candidates."""
    texts: Tensor
    """int64 (B,): candidate column of the text drawn for each image."""
    images: Tensor
    """int64 (B,): candidate column of the image drawn for each text."""
    likely: LikelyFalse | None


def of_drawn(size: int, keys: int, texts: Tensor, images: Tensor, drawn: Tensor, are_positives: bool) -> LikelyFalse:
    """Returns the likely false ones among drawn negatives: `drawn` bool (2B,), the texts' images, then the images' texts."""
    rows = torch.arange(size, device=drawn.device)
    i2t, t2i = (torch.zeros(size, keys, dtype=torch.bool, device=drawn.device) for _ in range(2))
    t2i[rows, images], i2t[rows, texts] = drawn.chunk(2)
    return LikelyFalse(i2t, t2i, drawn, are_positives)

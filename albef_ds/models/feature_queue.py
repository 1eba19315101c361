"""The queue of momentum features that serve as extra ITC negatives (paper section 3.2).

A ring buffer of any size. What enters is sorted by sample position first, so its content does not depend on the number
of ranks. Not responsible for gathering features over ranks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NO_ID = -1


class FeatureQueue(nn.Module):
    """The last `size` image and text features with the identities of their samples."""

    images: Tensor
    texts: Tensor
    image_ids: Tensor
    caption_ids: Tensor

    def __init__(self, size: int, embed_dim: int, *, start_filled: bool = False) -> None:
        """An empty queue, or with `start_filled` one of random unit vectors (as released, where they act as negatives)."""
        super().__init__()
        self.size = size
        generator = torch.Generator().manual_seed(size)
        for name in ("images", "texts"):
            # While ZeRO-3 constructs a model, whatever torch creates has the weights' precision and their GPU, unless it is told.
            drawn = torch.randn(size, embed_dim, generator=generator, device="cpu").float()
            self.register_buffer(name, F.normalize(drawn, dim=1))
        self.register_buffer("image_ids", torch.full((size,), NO_ID, dtype=torch.int64))
        self.register_buffer("caption_ids", torch.full((size,), NO_ID, dtype=torch.int64))
        # Plain numbers: reading them from a GPU tensor would stall the device once per step.
        self.pointer = 0
        """Where the next feature goes."""
        self.filled = size if start_filled else 0
        """Number of valid entries; the first `filled` rows are them."""

    def get_extra_state(self) -> dict[str, int]:
        """Pointer and fill, saved with the buffers."""
        return {"pointer": self.pointer, "filled": self.filled}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restore what `get_extra_state` gave."""
        self.pointer, self.filled = state["pointer"], state["filled"]

    def contents(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Valid image features, text features (F, E), image ids and caption ids (F,).

        Views, which the next enqueue changes: a graph that outlives it needs copies.
        """
        images, texts = self.images[: self.filled], self.texts[: self.filled]
        return images, texts, self.image_ids[: self.filled], self.caption_ids[: self.filled]

    @torch.no_grad()
    def enqueue(self, images: Tensor, texts: Tensor, image_ids: Tensor, caption_ids: Tensor, positions: Tensor) -> None:
        """Overwrite the oldest entries with B new ones, in the order of `positions`; the last `size` of them stay."""
        order = positions.argsort()[-self.size :] if self.size else positions[:0]
        count = order.numel()
        slots = (self.pointer + torch.arange(count, device=order.device)) % max(self.size, 1)
        for buffer, new in (
            (self.images, images),
            (self.texts, texts),
            (self.image_ids, image_ids),
            (self.caption_ids, caption_ids),
        ):
            buffer[slots] = new[order].to(buffer.dtype)
        self.pointer = (self.pointer + count) % max(self.size, 1)
        self.filled = min(self.filled + count, self.size)

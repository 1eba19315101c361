"""The queue of momentum features that serve as extra ITC negatives (paper section 3.2).

A ring buffer of any size. New entries are sorted by sample position, so the content does not depend on the number of ranks. The
caller gathers features over ranks.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NO_ID = -1


class FeatureQueue(nn.Module):
    """The last `size` image and text features with the ids of their samples."""

    images: Tensor
    texts: Tensor
    image_ids: Tensor
    caption_ids: Tensor

    def __init__(self, size: int, embed_dim: int, *, start_filled: bool = False) -> None:
        """Makes an empty queue, or with `start_filled` one of random unit vectors, which act as negatives as in the release."""
        super().__init__()
        self.size = size
        generator = torch.Generator().manual_seed(size)
        for name in ("images", "texts"):
            # During ZeRO-3 construction new tensors default to the weights' dtype and GPU, so both are given explicitly.
            drawn = torch.randn(size, embed_dim, generator=generator, device="cpu").float()
            self.register_buffer(name, F.normalize(drawn, dim=1))
        self.register_buffer("image_ids", torch.full((size,), NO_ID, dtype=torch.int64))
        self.register_buffer("caption_ids", torch.full((size,), NO_ID, dtype=torch.int64))
        # Python numbers: reading them from a GPU tensor would stall the device once per step.
        self.pointer = 0
        """Row of the next feature."""
        self.filled = size if start_filled else 0
        """Number of valid entries, which are the first rows."""

    def get_extra_state(self) -> dict[str, int]:
        """Returns pointer and number of valid entries, saved with the buffers."""
        return {"pointer": self.pointer, "filled": self.filled}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restores what `get_extra_state` returned."""
        self.pointer, self.filled = state["pointer"], state["filled"]

    @torch.no_grad()
    def restore(self, stored: Mapping[str, Tensor], state: dict[str, int]) -> None:
        """Restores buffers and extra state of a queue, which may have another size: the newest entries are kept then."""
        size = stored["images"].shape[0]
        if size == self.size:
            self.load_state_dict({**stored, "_extra_state": state})
            return
        filled = state["filled"]
        start = state["pointer"] if filled == size else 0
        oldest_first = (start + torch.arange(filled)) % max(size, 1)
        newest = oldest_first[max(0, filled - self.size) :]
        count = newest.numel()
        for name, buffer in self.named_buffers():
            buffer[:count] = stored[name][newest].to(buffer)
        self.pointer = count % max(self.size, 1)
        self.filled = max(count, self.filled)  # a queue that starts filled stays so

    def contents(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns valid image features and text features (F, E), image ids and caption ids (F,).

        They are views that the next `enqueue` changes: an autograd graph that outlives it needs copies.
        """
        images, texts = self.images[: self.filled], self.texts[: self.filled]
        return images, texts, self.image_ids[: self.filled], self.caption_ids[: self.filled]

    @torch.no_grad()
    def enqueue(self, images: Tensor, texts: Tensor, image_ids: Tensor, caption_ids: Tensor, positions: Tensor) -> None:
        """Overwrites the oldest entries by B new ones, in the order of `positions`; at most the last `size` of them are kept."""
        order = positions.argsort()[-self.size :] if self.size else positions[:0]
        count = order.numel()
        slots = (self.pointer + torch.arange(count, device=order.device)) % max(self.size, 1)
        buffers = (self.images, self.texts, self.image_ids, self.caption_ids)
        for buffer, new in zip(buffers, (images, texts, image_ids, caption_ids), strict=True):
            buffer[slots] = new[order].to(buffer.dtype)
        self.pointer = (self.pointer + count) % max(self.size, 1)
        self.filled = min(self.filled + count, self.size)

"""CPU memory for the copies of a run's state, kept between saves.

Memory that a process touches for the first time costs several times what the copy into it costs, and training waits for the copy.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

_BLOCK, _ALIGNMENT, _PAGE = 1 << 28, 64, 4096


class SaveMemory:
    """Gives out memory in order; after `reset` the same again."""

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._block = self._used = 0
        self._touching: threading.Thread | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return sum(block.numel() for block in self._blocks)

    def prepare(self, nbytes: int) -> None:
        """Touches `nbytes` in a thread, so that the first save finds memory that is in use."""
        sizes = [_BLOCK] * (nbytes // _BLOCK) + [nbytes % _BLOCK]
        self._blocks += [torch.empty(size, dtype=torch.uint8) for size in sizes if size]

        def touch() -> None:
            for block in self._blocks:
                block[::_PAGE] = 0

        self._touching = threading.Thread(target=touch, name="memory of checkpoints", daemon=True)
        self._touching.start()

    def reset(self) -> None:
        """Takes all memory back; copies that were made before are overwritten by later ones."""
        if self._touching is not None:
            self._touching.join()
            self._touching = None
        self._block = self._used = 0

    def release(self) -> None:
        """Takes all memory back and frees it."""
        self.reset()
        self._blocks.clear()

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy of `tensor` on the CPU, contiguous."""
        content = self._take(tensor.nbytes).view(tensor.dtype).view(tensor.shape)
        return content.copy_(tensor.detach())

    def _take(self, nbytes: int) -> Tensor:
        if self._used and self._used + nbytes > self._blocks[self._block].numel():
            self._block, self._used = self._block + 1, 0
        if self._block == len(self._blocks) or nbytes > self._blocks[self._block].numel():
            # At this place, so that the following blocks are still used.
            self._blocks.insert(self._block, torch.empty(max(nbytes, _BLOCK), dtype=torch.uint8))
        start = self._used
        self._used += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        return self._blocks[self._block][start : start + nbytes]

"""Caches the embeddings of a frozen text encoder, which gets the same captions in every epoch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class TextCache:
    """Calls `encode` of a text encoder without training and dropout, and keeps the most recently used rows in memory.

    Ranks get different captions, so `encode` must not communicate: ZeRO-3 must not gather its parameters.

    Args:
        encode: int64 (R, L), bool (R, L) -> (R, L, D).
        max_rows: number of texts kept; one takes tokens x D x 4 bytes in fp32.
    """

    def __init__(self, encode: Callable[[Tensor, Tensor], Tensor], max_rows: int) -> None:
        self.encode = encode
        self.max_rows = max_rows
        self.hits = 0
        self.misses = 0
        self._rows: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()

    @torch.no_grad()
    def __call__(self, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        """int64 (R, L), bool (R, L) true at a prefix of each row -> (R, L, D), zero at padding."""
        lengths = token_mask.sum(dim=1).tolist()
        keys = [tuple(row[:length]) for row, length in zip(token_ids.tolist(), lengths, strict=True)]
        new = [key for key in dict.fromkeys(keys) if key not in self._rows]
        self.hits += len(keys) - len(new)
        self.misses += len(new)
        if new:
            self._add(new, token_ids.device)
        for key in keys:
            self._rows.move_to_end(key)
        embeds = pad_sequence([self._rows[key] for key in keys], batch_first=True)
        while len(self._rows) > self.max_rows:
            self._rows.popitem(last=False)
        return torch.nn.functional.pad(embeds, (0, 0, 0, token_ids.shape[1] - embeds.shape[1]))

    def _add(self, keys: list[tuple[int, ...]], device: torch.device) -> None:
        ids = pad_sequence([torch.tensor(key, device=device) for key in keys], batch_first=True)
        lengths = torch.tensor([len(key) for key in keys], device=device)
        mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
        for key, embeds in zip(keys, self.encode(ids, mask), strict=True):
            self._rows[key] = embeds[: len(key)].clone()

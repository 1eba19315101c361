"""The distinct texts among many, so that equal ones are encoded and judged once and get equal scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DistinctTexts:
    """N distinct texts, the shortest first, so that consecutive ones need little padding. All tensors are on the CPU."""

    ids: Tensor
    """int64 (N, L), 0 at padding."""
    lengths: Tensor
    """int64 (N,): number of tokens."""
    number: Tensor
    """int64 (T,): the distinct text that each given text is."""

    @classmethod
    def of(cls, batches: Iterable[tuple[Tensor, Tensor]]) -> DistinctTexts:
        """Returns the distinct rows of batches of ids int64 (B, L) and mask bool (B, L), true at the first tokens of each row."""
        rows: list[tuple[int, ...]] = []
        for ids, mask in batches:
            lengths = mask.sum(dim=1).tolist()
            rows += [tuple(row[:length]) for row, length in zip(ids.tolist(), lengths, strict=True)]
        distinct = sorted(dict.fromkeys(rows), key=len)
        place = {row: number for number, row in enumerate(distinct)}
        longest = len(distinct[-1])
        padded = torch.tensor([row + (0,) * (longest - len(row)) for row in distinct])
        return cls(padded, torch.tensor([len(row) for row in distinct]), torch.tensor([place[row] for row in rows]))

    def padded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Ids int64 (R, longest of them) and mask bool of the texts `rows` int64 (R,)."""
        lengths = self.lengths[rows]
        longest = int(lengths.max())
        return self.ids[rows, :longest], torch.arange(longest) < lengths[:, None]

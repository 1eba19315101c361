"""Ranks and recall from scores, for queries of one direction. Knows no model, no data and no ranks of processes.

Ties count against the model: a query's rank is the number of wrong candidates that score at least as high as its best
right one. So a model that gives everything the same score has recall 0, not chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Ranking = Literal["itc", "itm", "itm_itc"]
"""What candidates are ordered by, see `DirectionScores.scores`."""

TIE = 1e-6
"""Scores closer than this are a tie: the same input in two batches may differ by a rounding."""
_OUTSIDE = 1e6  # more than any score: what was not re-ranked stays behind what was
_BLOCK = 1024  # queries whose scores are held at once


def ranks(scores: Tensor, right: Tensor, tolerance: float = 0.0) -> Tensor:
    """Number of wrong candidates not below the best right one, int64 (Q,); 0 is a hit at 1.

    Args:
        scores: (Q, C).
        right: bool (Q, C).
        tolerance: how far below the best right one still counts as a tie.
    """
    best = scores.masked_fill(~right, float("-inf")).amax(dim=1, keepdim=True)
    # Not `scores >= best`: comparisons with NaN are false, and a diverged model must not score 100%.
    return (~(scores < best - tolerance) & ~right).sum(dim=1)


def recall(query_ranks: Tensor, k: int) -> float:
    """Per cent of queries with a right candidate among the first `k`."""
    return 100.0 * (query_ranks < k).double().mean().item()


def chance(num_right: Tensor, num_candidates: int, k: int) -> float:
    """Recall at `k`, per cent, of a random order; `num_right` int64 (Q,) counts each query's right candidates."""
    missed = torch.ones(num_right.shape, dtype=torch.float64)
    wrong = num_candidates - num_right.double().cpu()
    for drawn in range(min(k, num_candidates)):
        missed *= (wrong - drawn).clamp(min=0.0) / (num_candidates - drawn)
    return 100.0 * (1.0 - missed.mean().item())


@dataclass(frozen=True)
class DirectionScores:
    """Q queries against C candidates: images against captions or the other way round."""

    similarity: Tensor
    """float32 (Q, C), cosine of the ITC features."""
    query_image: Tensor
    """int64 (Q,): the picture a query is or belongs to."""
    candidate_image: Tensor
    """int64 (C,)."""
    temperature: float
    """Divides similarities in `itm_itc`."""
    shortlist: Tensor | None = None
    """int64 (Q, K): the candidates that the multimodal encoder has judged."""
    margins: Tensor | None = None
    """float32 (Q, K): their ITM logits, match less no match."""

    def right(self, rows: slice = slice(None)) -> Tensor:
        """bool (R, C): which candidates are right."""
        return self.query_image[rows, None] == self.candidate_image

    def nearest(self, k: int) -> Tensor:
        """The min(k, C) candidates of highest similarity, int64 (Q, K). At a tie, wrong ones go first."""
        return torch.cat([_top(self.similarity[rows].double(), self.right(rows), k) for rows in self._blocks()])

    def scores(self, ranking: Ranking, rows: slice = slice(None)) -> Tensor:
        """float64 (R, C).

        `itc`: the similarity. `itm`: candidates of the shortlist by the ITM margin (the logit of the match probability,
        which does not saturate), all others behind them by similarity. `itm_itc`: the shortlist by
        log p(match) + similarity / temperature, the log of the product of what both heads believe; others as before.
        """
        similarity = self.similarity[rows].double()
        if ranking == "itc":
            return similarity
        assert self.shortlist is not None and self.margins is not None, "no candidates were judged"
        shortlist, judged = self.shortlist[rows], self.margins[rows].double()
        if ranking == "itm_itc":
            judged = F.logsigmoid(judged) + similarity.gather(1, shortlist) / self.temperature
        return (similarity - _OUTSIDE).scatter(1, shortlist, judged)

    def ranks(self, ranking: Ranking) -> Tensor:
        """Rank of every query's best right candidate, int64 (Q,), from 0; ties count against the model."""
        return torch.cat([ranks(self.scores(ranking, rows), self.right(rows), TIE) for rows in self._blocks()])

    def top(self, ranking: Ranking, k: int) -> Tensor:
        """The first min(k, C) candidates of every query, int64 (Q, K). At a tie, wrong ones go first."""
        return torch.cat([_top(self.scores(ranking, rows), self.right(rows), k) for rows in self._blocks()])

    def chance(self, k: int) -> float:
        """Recall at `k`, per cent, of a random order."""
        counts = torch.bincount(self.candidate_image, minlength=int(self.query_image.max()) + 1)
        return chance(counts[self.query_image], self.candidate_image.numel(), k)

    def _blocks(self) -> Iterator[slice]:
        for start in range(0, self.similarity.shape[0], _BLOCK):
            yield slice(start, start + _BLOCK)


def _top(scores: Tensor, right: Tensor, k: int) -> Tensor:
    return (scores - TIE * right).topk(min(k, scores.shape[1]), dim=1).indices

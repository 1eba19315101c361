"""Ranks and recall of the queries of one direction, from scores. Knows no model, no data and no process ranks.

Ties count against the model: a query's rank is the number of wrong candidates that score at least as high as its best right
one. A model that gives everything the same score therefore has recall 0, not chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Ranking = Literal["itc", "itm", "itm_itc"]
"""Score by which candidates are ordered, see `DirectionScores.scores`."""

TIE = 1e-6
"""Scores closer than this are a tie: the same input may be rounded differently in two batches."""
_OUTSIDE = 1e6  # above any score: keeps candidates that were not re-ranked behind those that were
_BLOCK = 1024  # queries whose scores are in memory at once


def ranks(scores: Tensor, right: Tensor, tolerance: float = 0.0) -> Tensor:
    """Number of wrong candidates that score at least as high as the best right one, int64 (Q,); 0 is a hit at 1.

    Args:
        scores: (Q, C).
        right: bool (Q, C), true for right candidates.
        tolerance: largest distance below the best right one that counts as a tie.
    """
    best = scores.masked_fill(~right, float("-inf")).amax(dim=1, keepdim=True)
    # Not `scores >= best`: comparisons with NaN are false, and a diverged model must not score 100%.
    return (~(scores < best - tolerance) & ~right).sum(dim=1)


def recall(query_ranks: Tensor, k: int) -> float:
    """Queries with a right candidate among the first `k`, in per cent."""
    return 100.0 * (query_ranks < k).double().mean().item()


def chance(num_right: Tensor, num_candidates: int, k: int) -> float:
    """Recall at `k` of a random order, in per cent; `num_right` int64 (Q,) counts each query's right candidates."""
    missed = torch.ones(num_right.shape, dtype=torch.float64)
    wrong = num_candidates - num_right.double().cpu()
    for drawn in range(min(k, num_candidates)):
        missed *= (wrong - drawn).clamp(min=0.0) / (num_candidates - drawn)
    return 100.0 * (1.0 - missed.mean().item())


@dataclass(frozen=True)
class DirectionScores:
    """Scores of Q queries against C candidates: images against captions or captions against images."""

    similarity: Tensor
    """float32 (Q, C), cosine of the ITC features."""
    query_image: Tensor
    """int64 (Q,): image that each query is or belongs to."""
    candidate_image: Tensor
    """int64 (C,): the same for candidates."""
    temperature: float
    """Divides similarities in `itm_itc`."""
    shortlist: Tensor | None = None
    """int64 (Q, K): candidates that the multimodal encoder has scored."""
    margins: Tensor | None = None
    """float32 (Q, K): their ITM logits, match minus no match."""
    match: Tensor | None = None
    """float32 (Q, K): their ITM logits of match alone, by which `itm` then orders them, as the released code does."""

    def right(self, rows: slice = slice(None)) -> Tensor:
        """Right candidates of the queries `rows`, bool (R, C)."""
        return self.query_image[rows, None] == self.candidate_image

    def nearest(self, k: int) -> Tensor:
        """The min(k, C) candidates of highest similarity, int64 (Q, K). In a tie, wrong candidates come first."""
        return torch.cat([_top(self.similarity[rows].double(), self.right(rows), k) for rows in self._blocks()])

    def scores(self, ranking: Ranking, rows: slice = slice(None)) -> Tensor:
        """Scores of the queries `rows` by `ranking`, float64 (R, C).

        `itc`: the similarity. `itm`: the ITM margin (the logit of the match probability, which does not saturate), or `match`
        if given, for the shortlist, followed by all others by similarity. `itm_itc`: log p(match) + similarity / temperature for
        the shortlist, which is the log of the product of both heads' probabilities; the others as before.
        """
        similarity = self.similarity[rows].double()
        if ranking == "itc":
            return similarity
        assert self.shortlist is not None and self.margins is not None, "no candidates were re-ranked"
        shortlist, reranked = self.shortlist[rows], self.margins[rows].double()
        if ranking == "itm" and self.match is not None:
            reranked = self.match[rows].double()
        if ranking == "itm_itc":
            reranked = F.logsigmoid(reranked) + similarity.gather(1, shortlist) / self.temperature
        return (similarity - _OUTSIDE).scatter(1, shortlist, reranked)

    def ranks(self, ranking: Ranking) -> Tensor:
        """Rank of every query's best right candidate, int64 (Q,), from 0; ties count against the model."""
        return torch.cat([ranks(self.scores(ranking, rows), self.right(rows), TIE) for rows in self._blocks()])

    def top(self, ranking: Ranking, k: int) -> Tensor:
        """The first min(k, C) candidates of every query, int64 (Q, K). In a tie, wrong candidates come first."""
        return torch.cat([_top(self.scores(ranking, rows), self.right(rows), k) for rows in self._blocks()])

    def chance(self, k: int) -> float:
        """Recall at `k` of a random order, in per cent."""
        counts = torch.bincount(self.candidate_image, minlength=int(self.query_image.max()) + 1)
        return chance(counts[self.query_image], self.candidate_image.numel(), k)

    def _blocks(self) -> Iterator[slice]:
        for start in range(0, self.similarity.shape[0], _BLOCK):
            yield slice(start, start + _BLOCK)


def _top(scores: Tensor, right: Tensor, k: int) -> Tensor:
    return (scores - TIE * right).topk(min(k, scores.shape[1]), dim=1).indices

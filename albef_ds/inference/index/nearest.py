"""Exact search: the rows with the largest products with queries, by blocks, so that memory does not grow with their number."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from albef_ds.inference.index.store import Table

_BLOCK = 65_536
"""Rows that are scored at a time."""


def nearest(table: Table, queries: Tensor, k: int, first_row: int = 0) -> list[list[tuple[int, float]]]:
    """The `k` images with the largest products for each query, best first: (place among `table.names`, product).

    Equal products are ordered by place. Beside the result it needs the products of a block, 256 KB a query.

    Args:
        table: N images.
        queries: float32 (Q, embed_dim) on the CPU.
        k: number of images; fewer are returned if there are fewer.
        first_row: rows of `table.features` before this one are left out.
    """
    places = table.places
    best: list[tuple[NDArray[np.float32], NDArray[np.int64]]] = [
        (np.zeros(0, np.float32), np.zeros(0, np.int64)) for _ in queries
    ]
    for start in range(first_row, len(table.features), _BLOCK) if k > 0 else ():
        block = torch.from_numpy(table.features[start : start + _BLOCK])
        here = places[start : start + len(block)]
        products = (queries @ block.t()).numpy()
        products[:, here < 0] = -np.inf
        for number, row in enumerate(products):
            best[number] = _merged(best[number], row, here, k)
    return [list(zip(found.tolist(), scores.tolist(), strict=True)) for scores, found in best]


def _merged(
    best: tuple[NDArray[np.float32], NDArray[np.int64]], products: NDArray[np.float32], places: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The `k` best of those found so far and of a block."""
    # A product below the k-th best so far cannot be among them; one that equals it can, by its place.
    least = best[0][-1] if len(best[0]) == k else -np.inf
    if len(products) > k:
        least = max(least, np.partition(products, len(products) - k)[len(products) - k])
    chosen = np.flatnonzero((products >= least) & (places >= 0))
    scores, found = np.concatenate([best[0], products[chosen]]), np.concatenate([best[1], places[chosen]])
    order = np.lexsort((found, -scores))[:k]
    return scores[order], found[order]

"""Orders rows of features so that neighbours are alike at every scale: any run of the order is a neighbourhood.

Rows are halved again and again across the direction in which they differ most (a principal-component tree), and within the small
parts that remain each row is followed by the most similar one that is left, as in GRIT-VLP (Byun et al. 2022, arXiv 2208.04060).
A random part of the rows, taken in this order, is therefore ordered by similarity too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_tools.matching.clusters import BATCH, unit

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
_LEAF = 32
"""Rows that are chained one by one."""
_IN_MEMORY = 1 << 18
"""Rows that are read at once; larger parts stay on disk and are halved in passes over it."""
_SAMPLE = 1 << 14
"""Rows from which a direction is found."""
_ROUNDS = 6


def similar_order(features: NDArray[np.floating], seed: int = 0) -> I64:
    """The numbers of the rows of `features` (N, D), which may be left on disk, in an order of similarity, int64 (N,)."""
    generator = np.random.default_rng(seed)
    waiting, found = [np.arange(len(features))], []
    while waiting:
        rows = waiting.pop()
        if len(rows) <= _IN_MEMORY:
            found.append(rows[_ordered(unit(features[rows]), generator)])
            continue
        chosen = np.sort(generator.choice(rows, _SAMPLE, replace=False))
        direction = _direction(unit(features[chosen]), generator)
        along = np.concatenate([unit(features[rows[i : i + BATCH]]) @ direction for i in range(0, len(rows), BATCH)])
        left, right = _halves(along)
        waiting += [rows[right], rows[left]]
    return np.concatenate([np.zeros(0, np.int64), *found])


def neighbour_similarity(features: NDArray[np.floating], order: I64, seed: int = 0) -> tuple[float, float]:
    """Mean cosine similarity of rows that follow each other in `order`, and of random pairs, over some thousand of each."""
    if len(order) < 2:
        return 1.0, 1.0
    generator = np.random.default_rng(seed)
    first = generator.integers(0, len(order) - 1, min(len(order), 4096))
    other = order[generator.integers(0, len(order), len(first))]
    here = unit(features[order[first]])
    near, far = unit(features[order[first + 1]]), unit(features[other])
    return float((here * near).sum(axis=1).mean()), float((here * far).sum(axis=1).mean())


def _ordered(units: F32, generator: np.random.Generator) -> I64:
    """The rows of `units` in order, by their numbers."""
    waiting, found = [np.arange(len(units))], []
    while waiting:
        rows = waiting.pop()
        if len(rows) <= _LEAF:
            found.append(rows[_chained(units[rows])])
            continue
        sample = rows if len(rows) <= _SAMPLE else generator.choice(rows, _SAMPLE, replace=False)
        left, right = _halves(units[rows] @ _direction(units[sample], generator))
        waiting += [rows[right], rows[left]]
    return np.concatenate([np.zeros(0, np.int64), *found])


def _direction(units: F32, generator: np.random.Generator) -> F32:
    """The direction (D,) in which the rows differ most, by power iteration."""
    centred = units - units.mean(axis=0)
    direction: F32 = generator.standard_normal((units.shape[1],), np.float32)
    for _ in range(_ROUNDS):
        direction = centred.T @ (centred @ direction)
        direction /= max(float(np.linalg.norm(direction)), 1e-30)
    return direction


def _halves(values: F32) -> tuple[I64, I64]:
    """Numbers of the lower and the upper half of `values`, each ascending; equal values are divided by number."""
    order = np.argsort(values, kind="stable")
    middle = len(order) // 2
    return np.sort(order[:middle]), np.sort(order[middle:])


def _chained(units: F32) -> I64:
    """Numbers of a few rows, each followed by the most similar one that is left."""
    if len(units) < 3:
        return np.arange(len(units))
    similarity = units @ units.T
    order = np.empty(len(units), np.int64)
    row = int(similarity.sum(axis=1).argmin())
    for place in range(len(units)):
        order[place] = row
        similarity[:, row] = -np.inf
        row = int(similarity[row].argmax())
    return order

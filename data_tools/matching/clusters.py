"""Spherical k-means over rows of features that may be left on disk, and unit vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]
_ROUNDS = 8
BATCH = 1 << 14
"""Rows read at once."""


def unit(features: NDArray[np.floating]) -> F32:
    """`features` (N, D) as float32 of unit length; rows of zeros stay zeros."""
    values = features.astype(np.float32)
    scaled: F32 = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return scaled


def clusters(rows: I64, features: NDArray[np.floating], count: int, seed: int) -> I64:
    """Cluster of each of `rows` of `features`, int64 (len(rows),) from 0 to `count` - 1, by spherical k-means."""
    if count <= 1 or len(rows) <= count:
        return np.zeros(len(rows), np.int64) if count <= 1 else np.arange(len(rows))
    rng = np.random.default_rng(seed)
    centres = unit(features[np.sort(rng.choice(rows, count, replace=False))])
    labels = np.zeros(len(rows), np.int64)
    for _ in range(_ROUNDS):
        sums = np.zeros_like(centres)
        for first in range(0, len(rows), BATCH):
            units = unit(features[rows[first : first + BATCH]])
            labels[first : first + BATCH] = np.argmax(units @ centres.T, axis=1)
            np.add.at(sums, labels[first : first + BATCH], units)
        filled = np.linalg.norm(sums, axis=1) > 0
        centres[filled] = unit(sums[filled])
    return labels

"""Duplicates by meaning: images with similar features, as in SemDeDup (Abbas et al. 2023, arXiv 2303.09540).

Features come from any image encoder, such as our own model's `encode_image`; this module computes none. To bound the work,
only images of one spherical k-means cluster are compared.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from albef_ds.common.errors import DataError
from albef_ds.data.shards.format import ARRAY_FAULTS
from data_tools.matching.components import components
from data_tools.matching.image_duplicates import Dropped, keep_best

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]
_CLUSTER_SIZE = 1000  # images per cluster, on average
_ROUNDS = 8
_BATCH = 1 << 14


def load_features(path: Path, num_rows: int) -> NDArray[np.floating]:
    """Features of all catalog rows, (num_rows, D), left on disk; a row of zeros has none. Raises DataError if unusable."""
    try:
        features: NDArray[np.floating] = np.load(path, mmap_mode="r", allow_pickle=False)
    except ARRAY_FAULTS as error:
        raise DataError(f"features {path} cannot be read ({error}): give a .npy file of float16 or float32") from None
    if features.ndim != 2 or len(features) != num_rows or features.dtype.kind != "f" or not features.shape[1]:
        shape = "x".join(map(str, features.shape))
        raise DataError(f"features {path} are {features.dtype} {shape}: give one float row for each of the {num_rows} images")
    return features


def semantic_duplicates(rows: I64, features: NDArray[np.floating], rank: I64, cosine: float, seed: int = 0) -> Dropped:
    """Drops all but the best ranked of `rows` whose features have a cosine similarity of at least `cosine`.

    As for near-duplicate images, each dropped row is itself similar to the kept one. `distance` is 0: it is not in bits.
    """
    norms = np.concatenate(
        [np.linalg.norm(_part(features, rows, i, unit=False), axis=1) for i in range(0, len(rows), _BATCH)] or [[]]
    )
    rows = rows[norms > 0]
    clusters = _clusters(rows, features, max(1, len(rows) // _CLUSTER_SIZE), seed)
    order = np.argsort(clusters, kind="stable")
    starts = np.searchsorted(clusters[order], np.arange(clusters.max(initial=0) + 2))
    left, right = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for low, high in pairwise(starts):
        members = np.sort(order[low:high])
        units = _unit(features[rows[members]])
        for first in range(0, len(members), 2048):
            a, b = np.nonzero(units[first : first + 2048] @ units.T >= cosine)
            ahead = a + first < b
            left.append(members[a[ahead] + first])
            right.append(members[b[ahead]])
    labels = components(np.concatenate(left), np.concatenate(right), len(rows))
    crowded = np.flatnonzero(np.bincount(labels, minlength=1)[labels] > 1)

    def alike(a: I64, b: I64) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
        near = [
            (_unit(features[rows[a[i : i + _BATCH]]]) * _unit(features[rows[b[i : i + _BATCH]]])).sum(axis=1) >= cosine
            for i in range(0, len(a), _BATCH)
        ]
        return np.concatenate([np.zeros(0, np.bool_), *near]), np.zeros(len(a), np.uint8)

    found = keep_best(crowded[np.lexsort((rank[rows[crowded]], labels[crowded]))], labels, alike)
    return Dropped(rows[found.rows], rows[found.kept], found.distance, found.unexamined)


def _unit(features: NDArray[np.floating]) -> F32:
    values = features.astype(np.float32)
    unit: F32 = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return unit


def _part(features: NDArray[np.floating], rows: I64, first: int, *, unit: bool = True) -> F32:
    part = features[rows[first : first + _BATCH]]
    return _unit(part) if unit else part.astype(np.float32)


def _clusters(rows: I64, features: NDArray[np.floating], count: int, seed: int) -> I64:
    """Cluster of each row, int64 (len(rows),), by spherical k-means."""
    if count == 1:
        return np.zeros(len(rows), np.int64)
    rng = np.random.default_rng(seed)
    centres = _unit(features[np.sort(rng.choice(rows, count, replace=False))])
    labels = np.zeros(len(rows), np.int64)
    for _ in range(_ROUNDS):
        sums = np.zeros_like(centres)
        for first in range(0, len(rows), _BATCH):
            units = _part(features, rows, first)
            labels[first : first + _BATCH] = np.argmax(units @ centres.T, axis=1)
            np.add.at(sums, labels[first : first + _BATCH], units)
        filled = np.linalg.norm(sums, axis=1) > 0
        centres[filled] = _unit(sums[filled])
    return labels

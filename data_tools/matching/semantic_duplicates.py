"""Duplicates by meaning: images with similar features, as in SemDeDup (Abbas et al. 2023, arXiv 2303.09540).

Features come from `albef-data embed` or any other image encoder; this module computes none. To bound the work,
only images of one spherical k-means cluster are compared.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from albef_ds.common.errors import DataError
from albef_ds.data.shards.format import ARRAY_FAULTS
from data_tools.files.storage import open_source
from data_tools.matching.clusters import BATCH, clusters, unit
from data_tools.matching.components import components
from data_tools.matching.image_duplicates import Dropped, keep_best

I64 = NDArray[np.int64]
_CLUSTER_SIZE = 1000  # images per cluster, on average


def load_features(path: Path, num_rows: int) -> NDArray[np.floating]:
    """Features of all catalog rows, (num_rows, D), left on disk; a row of zeros has none. Raises DataError if unusable."""
    try:
        open_source(str(path)).close()  # numpy would wait for a pipe
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
        [np.linalg.norm(features[rows[i : i + BATCH]].astype(np.float32), axis=1) for i in range(0, len(rows), BATCH)] or [[]]
    )
    rows = rows[norms > 0]
    cluster_of = clusters(rows, features, max(1, len(rows) // _CLUSTER_SIZE), seed)
    order = np.argsort(cluster_of, kind="stable")
    starts = np.searchsorted(cluster_of[order], np.arange(cluster_of.max(initial=0) + 2))
    left, right = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for low, high in pairwise(starts):
        members = np.sort(order[low:high])
        units = unit(features[rows[members]])
        for first in range(0, len(members), 2048):
            a, b = np.nonzero(units[first : first + 2048] @ units.T >= cosine)
            ahead = a + first < b
            left.append(members[a[ahead] + first])
            right.append(members[b[ahead]])
    labels = components(np.concatenate(left), np.concatenate(right), len(rows))
    crowded = np.flatnonzero(np.bincount(labels, minlength=1)[labels] > 1)

    def alike(a: I64, b: I64) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
        near = [
            (unit(features[rows[a[i : i + BATCH]]]) * unit(features[rows[b[i : i + BATCH]]])).sum(axis=1) >= cosine
            for i in range(0, len(a), BATCH)
        ]
        return np.concatenate([np.zeros(0, np.bool_), *near]), np.zeros(len(a), np.uint8)

    found = keep_best(crowded[np.lexsort((rank[rows[crowded]], labels[crowded]))], labels, alike)
    return Dropped(rows[found.rows], rows[found.kept], found.distance, found.unexamined)

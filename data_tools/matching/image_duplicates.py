"""Chooses the image to keep among equal or near-equal ones: by bytes, by pixels, by perceptual hash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_tools.matching.components import components
from data_tools.matching.hamming import near_pairs

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
MAX_ROUNDS = 1000


@dataclass(frozen=True)
class Dropped:
    """`rows` (D,) and, for each, the row `kept` in its place and the `distance` in bits between the two."""

    rows: I64
    kept: I64
    distance: NDArray[np.int16]
    unexamined: int = 0
    """Rows that were kept because their cluster was too varied or too large to finish."""


def quality_rank(width: NDArray[np.int32], height: NDArray[np.int32], num_bytes: I64) -> I64:
    """Rank of each row, best first: most pixels, then most bytes (least compressed), then first listed."""
    area = width.astype(np.int64) * height
    order = np.lexsort((np.arange(len(area)), -num_bytes, -area))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank


def equal(rows: I64, keys: tuple[U64, ...], rank: I64) -> Dropped:
    """Drops all but the best ranked of `rows` with equal `keys` (arrays over the same rows)."""
    order = np.lexsort((rank[rows], *keys))
    rows = rows[order]
    changes = [key[order][1:] != key[order][:-1] for key in keys]
    first = np.concatenate(([True], np.logical_or.reduce(changes))) if len(rows) else np.zeros(0, np.bool_)
    leaders = rows[np.flatnonzero(first)][np.cumsum(first) - 1]
    return Dropped(rows[~first], leaders[~first], np.zeros(int((~first).sum()), np.int16))


def near(
    rows: I64, phash: U64, colours: Callable[[I64], NDArray[np.uint8]], rank: I64, *, radius: int, tolerance: int
) -> Dropped:
    """Drops all but the best ranked of `rows` (ascending, `phash` over them) that look alike.

    Two rows look alike when their hashes differ in at most `radius` bits and no mean colour of 8 x 8 fields by more than
    `tolerance` of 255. Clusters are chains of alike pairs; a row is dropped only for a kept row that it is itself alike to:
    the best of a cluster is kept, the rows alike to it are dropped, and the rest starts over.
    """
    distinct, inverse = np.unique(phash, return_inverse=True)
    pairs = near_pairs(distinct, radius)
    labels = components(pairs.left, pairs.right, len(distinct))[inverse]
    crowded = np.bincount(labels)[labels] > 1
    rows, phash, labels = rows[crowded], phash[crowded], labels[crowded]
    fields = colours(rows)
    order = np.lexsort((rank[rows], labels))

    def alike(a: I64, b: I64) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
        distance = np.bitwise_count(phash[a] ^ phash[b])
        difference = np.abs(fields[a].astype(np.int16) - fields[b]).max(axis=1, initial=0)
        return (distance <= radius) & (difference <= tolerance), distance

    found = keep_best(order, labels, alike)
    return Dropped(rows[found.rows], rows[found.kept], found.distance, found.unexamined + pairs.bounded_rows)


def keep_best(
    order: I64, labels: NDArray[np.int32], alike: Callable[[I64, I64], tuple[NDArray[np.bool_], NDArray[np.uint8]]]
) -> Dropped:
    """Members `order` are sorted by label, best first: the first of each label drops those alike to it, then the next, ..."""
    rows, kept, distance = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int16)]
    for _ in range(MAX_ROUNDS):
        if not len(order):
            break
        first = np.concatenate(([True], labels[order][1:] != labels[order][:-1]))
        leaders = order[np.flatnonzero(first)][np.cumsum(first) - 1]
        members, leaders = order[~first], leaders[~first]
        drop, bits = alike(members, leaders)
        rows.append(members[drop])
        kept.append(leaders[drop])
        distance.append(bits[drop].astype(np.int16))
        order = members[~drop]
    return Dropped(np.concatenate(rows), np.concatenate(kept), np.concatenate(distance), len(order))

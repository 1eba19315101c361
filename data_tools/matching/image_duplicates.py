"""Chooses the image to keep among equal or near-equal ones: by bytes, by pixels, by perceptual hash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_tools.matching.components import components
from data_tools.matching.distinct import distinct, leaders_of, starts_of_runs

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
    """Rank of each row among those given, best first: most pixels, then most bytes (least compressed), then first listed."""
    area = width.astype(np.int64) * height
    order = np.lexsort((np.arange(len(area)), -num_bytes, -area))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank


def equal(rows: I64, keys: tuple[U64, ...], rank: I64) -> Dropped:
    """Drops all but the best ranked of `rows` with equal `keys`; all arrays are over the same rows."""
    order = np.lexsort((rank, *keys))
    rows = rows[order]
    first = starts_of_runs(*(key[order] for key in keys))
    leaders = leaders_of(rows, first)
    return Dropped(rows[~first], leaders[~first], np.zeros(int((~first).sum()), np.int16))


def near(
    rows: I64, phash: U64, fields: NDArray[np.uint8], labels: NDArray[np.integer], rank: I64, *, radius: int, tolerance: int
) -> Dropped:
    """Drops all but the best ranked of `rows` that look alike; all arrays are over the same rows, `fields` (N, F).

    Two rows look alike when their hashes differ in at most `radius` bits and no mean colour of 8 x 8 fields by more than
    `tolerance` of 255. Clusters (`labels`) are chains of alike pairs; a row is dropped only for a kept row that it is itself
    alike to: the best of a cluster is kept, the rows alike to it are dropped, and the rest starts over.
    """

    def alike(a: I64, b: I64) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
        distance = np.bitwise_count(phash[a] ^ phash[b])
        difference = np.abs(fields[a].astype(np.int16) - fields[b]).max(axis=1, initial=0)
        return (distance <= radius) & (difference <= tolerance), distance

    found = keep_best(np.lexsort((rank, labels)), labels, alike)
    return Dropped(rows[found.rows], rows[found.kept], found.distance, found.unexamined)


@dataclass(frozen=True)
class HashClusters:
    """Clusters of perceptual hashes: the hashes that more than one image has or that are near another, ascending, and the
    number of each one's cluster, int64 (K,)."""

    hashes: U64
    labels: I64

    def places(self, hashes: U64) -> tuple[I64, I64]:
        """Places in `hashes` of those that are in a cluster, and the numbers of their clusters."""
        # A table of 16 million bits leaves out nearly all others before the search.
        table = np.zeros(1 << 24, np.bool_)
        table[(self.hashes >> np.uint64(40)).astype(np.int64)] = True
        places = np.flatnonzero(table[(hashes >> np.uint64(40)).astype(np.int64)])
        at = np.searchsorted(self.hashes, hashes[places])
        at = np.minimum(at, max(len(self.hashes) - 1, 0))
        hit = self.hashes[at] == hashes[places] if len(self.hashes) else np.zeros(0, np.bool_)
        return places[hit], self.labels[at[hit]] if len(self.hashes) else np.zeros(0, np.int64)


def hash_clusters(left: U64, right: U64, several: U64) -> HashClusters:
    """Clusters of the near pairs `left` and `right`, and of hashes that `several` images have, each (ascending) a cluster too."""
    hashes = distinct(np.concatenate((left, right, several)))
    labels = components(np.searchsorted(hashes, left), np.searchsorted(hashes, right), len(hashes))
    return HashClusters(hashes, labels.astype(np.int64))


def keep_best(
    order: I64, labels: NDArray[np.integer], alike: Callable[[I64, I64], tuple[NDArray[np.bool_], NDArray[np.uint8]]]
) -> Dropped:
    """Members `order` are sorted by label, best first: the first of each label drops those alike to it, then the next, ..."""
    rows, kept, distance = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int16)]
    for _ in range(MAX_ROUNDS):
        if not len(order):
            break
        first = starts_of_runs(labels[order])
        members, leaders = order[~first], leaders_of(order, first)[~first]
        drop, bits = alike(members, leaders)
        rows.append(members[drop])
        kept.append(leaders[drop])
        distance.append(bits[drop].astype(np.int16))
        order = members[~drop]
    return Dropped(np.concatenate(rows), np.concatenate(kept), np.concatenate(distance), len(order))

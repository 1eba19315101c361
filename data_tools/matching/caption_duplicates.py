"""Near-duplicate captions: pairs that share a MinHash band, and the clusters of those that are verified to be similar."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_tools.matching.components import components
from data_tools.matching.distinct import distinct

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
WINDOW = 8
"""A caption is compared with this many that follow it in a band's bucket."""


def keyed(keys: NDArray[np.uint32], numbers: I64) -> U64:
    """The keys of captions in one band with their numbers (below 2^32), key << 32 | number."""
    packed: U64 = keys.astype(np.uint64)
    packed <<= np.uint64(32)
    packed |= numbers.astype(np.uint64)
    return packed


def candidates(packed: U64) -> U64:
    """Pairs of captions with equal keys of one band, left << 32 | right, ascending; `packed` (of `keyed`) is sorted in place.

    Each is paired with at most WINDOW of those after it.
    """
    packed.sort()
    found: list[U64] = [np.zeros(0, np.uint64)]
    here = np.flatnonzero((packed[1:] ^ packed[:-1]) >> np.uint64(32) == 0)
    for distance in range(1, WINDOW + 1):
        if not len(here):
            break
        found.append((packed[here] << np.uint64(32)) | (packed[here + distance] & np.uint64(0xFFFFFFFF)))
        here = here[here + distance + 1 < len(packed)]
        here = here[(packed[here] ^ packed[here + distance + 1]) >> np.uint64(32) == 0]
    return np.sort(np.concatenate(found))


def ends(pairs: U64) -> tuple[I64, I64]:
    """The left and the right numbers of packed pairs."""
    return (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)


@dataclass(frozen=True)
class TextClusters:
    """Clusters with more than one caption: the `captions` in them (K,), ascending, and the `labels` of their clusters (K,)."""

    captions: I64
    labels: I64
    num_clusters: int
    """Clusters of distinct texts, those of one text included."""


def text_clusters(repeats: I64, firsts: I64, pairs: U64, num_texts: int) -> TextClusters:
    """Clusters of `num_texts` texts that are chains of similar `pairs`, where each of the captions `repeats` says the same as
    the first caption with its text, in `firsts`."""
    left, right = ends(pairs)
    nodes = distinct(np.concatenate((left, right, firsts)))
    of_node = components(np.searchsorted(nodes, left), np.searchsorted(nodes, right), len(nodes))
    captions = np.concatenate((nodes, repeats))
    labels = np.concatenate((of_node, of_node[np.searchsorted(nodes, firsts)])).astype(np.int64)
    order = np.argsort(captions)
    clusters = num_texts - len(nodes) + (int(of_node.max()) + 1 if len(nodes) else 0)
    return TextClusters(captions[order], labels[order], clusters)

"""Clusters of captions that say the same: equal words, or near-equal by MinHash and verified by Jaccard similarity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from data_tools import captions as text

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
WINDOW = 16
"""A caption is compared with this many that follow it in a band's bucket."""
_BATCH = 1 << 16


class TextFile:
    """Texts spilled to disk one after another and read back by number, so that memory does not hold them."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "texts.bin"
        self._file = open(self._path, "wb")  # noqa: SIM115 - closed by `finish` or `remove`
        self._sizes: list[I64] = []

    def append(self, texts: list[str]) -> None:
        """Add `texts`."""
        encoded = [part.encode("utf-8") for part in texts]
        self._file.write(b"".join(encoded))
        self._sizes.append(np.array([len(part) for part in encoded], np.int64))

    def finish(self) -> None:
        """End writing; `take` may follow."""
        self._file.close()
        self._starts = np.concatenate(([0], np.cumsum(np.concatenate([np.zeros(0, np.int64), *self._sizes]))))
        self._raw = np.memmap(self._path, np.uint8, "r") if self._starts[-1] else np.zeros(0, np.uint8)

    def take(self, numbers: I64) -> list[str]:
        """The texts with these numbers."""
        return [bytes(self._raw[a:b]).decode() for a, b in zip(self._starts[numbers], self._starts[numbers + 1], strict=True)]

    def remove(self) -> None:
        """Delete the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Clusters:
    """`labels` (U,) of U texts: equal for texts of one cluster. `candidates` pairs were looked at, `verified` are alike."""

    labels: NDArray[np.int32]
    candidates: int
    verified: int


def near_clusters(bands: Callable[[int], NDArray[np.uint32]], texts: TextFile, count: int, threshold: float) -> Clusters:
    """Clusters of `count` distinct texts; `bands(k)` is the column of band k, `texts` holds them normalised.

    Texts are joined when they share a band and their Jaccard similarity (over words and word pairs) is at least
    `threshold`; clusters are chains of such pairs.
    """
    packed = np.zeros(0, np.uint64)
    for number in range(text.NUM_BANDS):
        packed = np.union1d(packed, _candidates(bands(number)))
    left, right = (packed >> np.uint64(32)).astype(np.int64), (packed & np.uint64(0xFFFFFFFF)).astype(np.int64)
    keep = np.zeros(len(left), np.bool_)
    for first in range(0, len(left), _BATCH):
        part = slice(first, first + _BATCH)
        keep[part] = similarity(texts, left[part], right[part]) >= threshold
    left, right = left[keep], right[keep]
    graph = coo_matrix((np.ones(len(left), np.bool_), (left, right)), shape=(count, count))
    return Clusters(connected_components(graph, directed=False)[1], len(keep), len(left))


def _candidates(keys: NDArray[np.uint32]) -> U64:
    """Pairs of texts with equal keys, left << 32 | right, each text with at most WINDOW others after it."""
    packed = np.sort((keys.astype(np.uint64) << np.uint64(32)) | np.arange(len(keys), dtype=np.uint64))
    keys, order = (packed >> np.uint64(32)).astype(np.uint32), packed & np.uint64(0xFFFFFFFF)
    found: list[U64] = [np.zeros(0, np.uint64)]
    here = np.flatnonzero(keys[:-1] == keys[1:])
    for distance in range(1, WINDOW + 1):
        if not len(here):
            break
        found.append((order[here] << np.uint64(32)) | order[here + distance])
        here = here[here + distance + 1 < len(keys)]
        here = here[keys[here] == keys[here + distance + 1]]
    return np.concatenate(found)


def similarity(texts: TextFile, left: I64, right: I64) -> NDArray[np.float64]:
    """Jaccard similarity of the texts `left` and `right`, float64 (P,)."""
    sets = [text.shingles(text.words(texts.take(numbers))) for numbers in (left, right)]
    return text.jaccard(*sets)

"""Clusters of duplicate captions: equal words, or near-equal by MinHash and verified by Jaccard similarity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.content import captions as text
from data_tools.matching.components import components
from data_tools.matching.distinct import distinct

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
WINDOW = 8
"""A caption is compared with this many that follow it in a band's bucket."""
_BATCH = 1 << 16
_HELD = 1 << 24  # candidate pairs held before duplicates among them are removed


class SetFile:
    """The sets (hashed words and word pairs) of texts, spilled to disk because memory cannot hold them; read back by number."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "sets.bin"
        self._file = open(self._path, "wb")  # noqa: SIM115 - closed by `finish` or `remove`
        self._counts: list[I64] = [np.zeros(0, np.int64)]
        self._starts = np.zeros(1, np.int64)
        self._hashes: NDArray[np.uint32] = np.zeros(0, np.uint32)

    def append(self, texts: list[str]) -> None:
        """Add the sets of `texts`, which `captions.normalise` made."""
        sets = text.shingles(text.words(texts))
        self._file.write((sets.hashes >> np.uint64(32)).astype(np.uint32).tobytes())
        self._counts.append(sets.counts)

    def finish(self) -> None:
        """Ends writing and opens the sets for `sizes` and `take`."""
        self._file.close()
        self._starts = np.concatenate(([0], np.cumsum(np.concatenate(self._counts))))
        if self._starts[-1]:
            self._hashes = np.memmap(self._path, np.uint32, "r")

    def sizes(self, numbers: I64) -> I64:
        """Members, repeats included, of the sets with these numbers."""
        sizes: I64 = self._starts[numbers + 1] - self._starts[numbers]
        return sizes

    def take(self, numbers: I64) -> text.Words:
        """The sets with these numbers."""
        counts = self.sizes(numbers)
        starts = np.concatenate(([0], np.cumsum(counts)))
        places = np.arange(starts[-1]) + np.repeat(self._starts[numbers] - starts[:-1], counts)
        return text.Words(self._hashes[places].astype(np.uint64) << np.uint64(32), starts)

    def remove(self) -> None:
        """Delete the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Clusters:
    """`labels` (U,) of U texts, equal within a cluster. `candidates` pairs were compared, `verified` of them are similar."""

    labels: NDArray[np.int32]
    candidates: int
    verified: int


def near_clusters(bands: Callable[[int], NDArray[np.uint32]], sets: SetFile, count: int, threshold: float) -> Clusters:
    """Clusters of `count` distinct texts: chains of pairs that share a band and have a Jaccard similarity (over words and word
    pairs) of at least `threshold`. `bands(k)` is the column of band k, `sets` holds the texts' sets."""
    found: list[U64] = []
    for number in range(text.NUM_BANDS):
        found.append(_candidates(bands(number)))
        if sum(map(len, found)) > _HELD:
            found = [distinct(np.concatenate(found))]
    packed = distinct(np.concatenate(found))
    left, right = (packed >> np.uint64(32)).astype(np.int64), (packed & np.uint64(0xFFFFFFFF)).astype(np.int64)
    keep = np.zeros(len(left), np.bool_)
    for first in range(0, len(left), _BATCH):
        part = slice(first, first + _BATCH)
        keep[part] = similarity(sets, left[part], right[part]) >= threshold
    left, right = left[keep], right[keep]
    return Clusters(components(left, right, count), len(keep), len(left))


def _candidates(keys: NDArray[np.uint32]) -> U64:
    """Pairs of texts with equal keys, left << 32 | right; each text is paired with at most WINDOW of those after it."""
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


def similarity(sets: SetFile, left: I64, right: I64) -> NDArray[np.float64]:
    """Jaccard similarity of the sets `left` and `right`, float64 (P,)."""
    return text.jaccard(sets.take(left), sets.take(right))

"""The fast searches find exactly the pairs that comparing all with all finds."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from albef_ds.common.errors import ConfigError
from data_tools.matching import hamming


def planted(count: int, seed: int) -> NDArray[np.uint64]:
    """Distinct hashes, many of them within a few bits of another."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    copies = rng.integers(0, count // 2, count // 3)
    changed = hashes[copies]
    for _ in range(5):
        flip = np.uint64(1) << rng.integers(0, 64, len(copies), dtype=np.uint64)
        changed ^= np.where(rng.random(len(copies)) < 0.7, flip, np.uint64(0))
    hashes[-len(copies) :] = changed
    return np.asarray(rng.permutation(np.unique(hashes)))


def brute(left: NDArray[np.uint64], right: NDArray[np.uint64], radius: int) -> set[tuple[int, int]]:
    rows, columns = np.nonzero(np.bitwise_count(left[:, None] ^ right[None]) <= radius)
    return set(zip(rows.tolist(), columns.tolist(), strict=True))


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 4, 6, 8])
def test_near_pairs_misses_nothing_and_invents_nothing(radius: int) -> None:
    hashes = planted(1500, radius)
    found = hamming.near_pairs(hashes, radius)
    expected = {(a, b) for a, b in brute(hashes, hashes, radius) if a < b}
    assert set(zip(found.left.tolist(), found.right.tolist(), strict=True)) == expected
    assert len(found.left) == len(expected) and found.bounded_rows == 0
    assert radius < 3 or len(expected) > 200


@pytest.mark.parametrize("radius", [0, 3, 6, 8])
def test_cross_pairs_misses_nothing_and_invents_nothing(radius: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hamming, "_SLICE", 300)
    hashes = planted(1200, 20 + radius)
    queries = np.concatenate((planted(200, 50), hashes[:40] ^ np.uint64(0b101), hashes[40:80]))
    left, right, distance = hamming.cross_pairs(queries, hashes, radius)
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == brute(queries, hashes, radius)
    assert (distance == np.bitwise_count(queries[left] ^ hashes[right])).all()


def test_long_runs_are_bounded_linked_and_reported() -> None:
    # All hashes agree in the upper 40 bits, so one block choice after another puts them into one run.
    rng = np.random.default_rng(0)
    dense = np.unique(rng.integers(0, 1 << 16, 3000, dtype=np.uint64))
    found = hamming.near_pairs(dense, 3)
    assert found.bounded_rows == len(dense)
    assert (np.bitwise_count(dense[found.left] ^ dense[found.right]) <= 3).all()
    assert len(np.union1d(found.left, found.right)) > 0.99 * len(dense)


def test_empty_input_and_wrong_radius() -> None:
    nothing = np.zeros(0, np.uint64)
    assert len(hamming.near_pairs(nothing, 3).left) == 0
    assert len(hamming.cross_pairs(nothing, nothing, 3)[0]) == 0
    assert len(hamming.cross_pairs(nothing, np.ones(3, np.uint64), 3)[0]) == 0
    with pytest.raises(ConfigError, match="radius 17"):
        hamming.near_pairs(nothing, 17)

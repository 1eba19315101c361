"""Pairs of 64-bit hashes within a Hamming radius, exactly and without comparing all with all.

Split the 64 bits into b blocks. Two hashes that differ in at most r bits agree in at least b - r blocks. So for each choice
of b - r blocks: pack (those blocks, row) into one uint64, sort, and compare neighbouring rows with equal blocks (a run).
The search misses no pair and is deterministic.

Skewed data makes runs long and the work quadratic. Callers therefore collapse equal hashes and leave out flat images; this
module bounds the remaining long runs and returns the number of rows in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb

import numpy as np
from numpy.typing import NDArray

from albef_ds.common.errors import ConfigError, DataError
from data_tools.matching.distinct import distinct

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

BITS = 64
MAX_RUN = 256
"""Longest run in which every row is compared with every other."""
MAX_RADIUS = 16
_SLICE = 1 << 20
_SORT_COST, _COMPARE_COST = 60.0, 15.0  # nanoseconds a row; only their ratio matters
_TABLE_BITS = 22  # of the lookup table in `cross_pairs`


@dataclass(frozen=True)
class Pairs:
    """Rows `left` and `right` int64 (P,) of hashes within the radius."""

    left: I64
    right: I64
    bounded_rows: int
    """Rows in runs longer than MAX_RUN; each was linked to one near row of its run, not to all."""


def near_pairs(hashes: U64, radius: int) -> Pairs:
    """All pairs left < right of `hashes` (N,) that differ in at most `radius` bits (0 to MAX_RADIUS, else ConfigError)."""
    _check(radius)
    count = len(hashes)
    row_bits = max(1, (count - 1).bit_length())
    found: list[U64] = [np.zeros(0, np.uint64)]
    bounded = 0
    for shifts in _block_choices(*_plan(count, count / 2, radius, BITS - row_bits)):
        rows, equal_to_next, long = _runs(hashes, shifts, row_bits)
        bounded = max(bounded, int(long.sum()))
        found.append(_compare(hashes, rows, equal_to_next & ~long[:-1], radius, keep_going=True))
        if long.any():
            found.append(_compare(hashes, rows, equal_to_next & long[:-1], radius, keep_going=False))
        if len(found) > 16:
            found = [distinct(np.concatenate(found))]
    packed = distinct(np.concatenate(found))
    return Pairs((packed >> np.uint64(32)).astype(np.int64), (packed & np.uint64(0xFFFFFFFF)).astype(np.int64), bounded)


def _check(radius: int) -> None:
    if not 0 <= radius <= MAX_RADIUS:
        raise ConfigError(f"radius {radius} is outside 0 to {MAX_RADIUS}: 3 finds near-duplicates, 6 to 8 is wide")


def _plan(rows: int, partners: float, radius: int, key_bits: int) -> tuple[int, int, int]:
    """The cheapest plan: the number of blocks to split into, of blocks to use, and of blocks to choose from those.

    Among `radius + chosen` blocks at least `chosen` agree, so no further blocks are needed.
    """

    def cost(plan: tuple[int, int, int]) -> float:
        num_blocks, used, chosen = plan
        runs = 2.0 ** (BITS // num_blocks * chosen)
        return comb(used, chosen) * rows * (_SORT_COST + _COMPARE_COST * partners / runs)

    plans = [(b, radius + chosen, chosen) for b in range(radius + 1, 25) for chosen in range(1, b - radius + 1)]
    return min((plan for plan in plans if -(-BITS // plan[0]) * plan[2] <= key_bits), key=cost)


def _block_choices(num_blocks: int, used: int, chosen: int) -> Iterator[list[tuple[int, int]]]:
    """Yields each choice of blocks as (shift, width in bits) pairs."""
    edges = [round(BITS * k / num_blocks) for k in range(used + 1)]
    for choice in combinations([(low, high - low) for low, high in pairwise(edges)], chosen):
        yield list(choice)


def _keys(hashes: U64, shifts: list[tuple[int, int]]) -> U64:
    keys = np.zeros(len(hashes), np.uint64)
    for shift, width in shifts:
        keys <<= np.uint64(width)
        keys |= (hashes >> np.uint64(shift)) & np.uint64((1 << width) - 1)
    return keys


def _runs(hashes: U64, shifts: list[tuple[int, int]], row_bits: int) -> tuple[U64, NDArray[np.bool_], NDArray[np.bool_]]:
    """Rows sorted by key, a mask of those with the key of the next, and a mask of those in a run longer than MAX_RUN."""
    bits = np.uint64(row_bits)
    packed = np.empty(len(hashes), np.uint64)
    for first in range(0, len(hashes), _SLICE):
        part = hashes[first : first + _SLICE]
        packed[first : first + _SLICE] = (_keys(part, shifts) << bits) | np.arange(first, first + len(part), dtype=np.uint64)
    packed.sort()
    equal = np.empty(max(len(packed) - 1, 0), np.bool_)
    long = np.zeros(len(packed), np.bool_)
    for first in range(0, len(equal), _SLICE):
        last = min(first + _SLICE, len(equal))
        equal[first:last] = ((packed[first:last] ^ packed[first + 1 : last + 1]) >> bits) == 0
    for first in range(0, len(packed) - MAX_RUN, _SLICE):
        last = min(first + _SLICE, len(packed) - MAX_RUN)
        far = packed[first + MAX_RUN : last + MAX_RUN]
        starts = np.flatnonzero(((packed[first:last] ^ far) >> bits) == 0) + first
        if len(starts):
            change = np.zeros(last - first + MAX_RUN + 1, np.int32)
            np.add.at(change, starts - first, 1)
            np.add.at(change, starts - first + MAX_RUN + 1, -1)
            long[first : last + MAX_RUN] |= np.cumsum(change)[: last + MAX_RUN - first] > 0
    packed &= np.uint64((1 << row_bits) - 1)
    return packed, equal, long


def _compare(hashes: U64, rows: U64, equal_to_next: NDArray[np.bool_], radius: int, *, keep_going: bool) -> U64:
    """Compares each row with those after it in its run (up to its first hit unless `keep_going`); left << 32 | right."""
    found: list[U64] = [np.zeros(0, np.uint64)]
    here = np.flatnonzero(equal_to_next)
    distance = 1
    while len(here) and distance <= MAX_RUN:
        a, b = rows[here], rows[here + distance]
        near = np.bitwise_count(hashes[a] ^ hashes[b]) <= radius
        if near.any():
            left, right = np.minimum(a[near], b[near]), np.maximum(a[near], b[near])
            found.append((left << np.uint64(32)) | right)
        if not keep_going:
            here = here[~near]
        here = here[here + distance < len(equal_to_next)]
        here = here[equal_to_next[here + distance]]
        distance += 1
    return np.concatenate(found)


def cross_pairs(queries: U64, hashes: U64, radius: int) -> tuple[I64, I64, NDArray[np.uint8]]:
    """All pairs of a query (Q,) and a hash (N,) within `radius` bits: query rows, hash rows, distances.

    The queries are few (evaluation images, below 2^24): they form a lookup table, and the hashes stream past it.

    Raises:
        UserError: the radius is not from 0 to MAX_RADIUS, or there are too many queries.
    """
    _check(radius)
    if len(queries) >= 1 << 24:
        raise DataError(f"{len(queries)} evaluation images are too many to search at once: split their hash file")
    found: list[U64] = [np.zeros(0, np.uint64)]
    choices = list(_block_choices(*_plan(len(hashes), len(queries), radius, _TABLE_BITS))) if len(queries) and len(hashes) else []
    for shifts in choices:
        keys = _keys(queries, shifts).astype(np.int64)
        order = np.argsort(keys, kind="stable").astype(np.int64)
        starts = np.concatenate(([0], np.cumsum(np.bincount(keys, minlength=1 << sum(width for _, width in shifts)))))
        for first in range(0, len(hashes), _SLICE):
            part = hashes[first : first + _SLICE]
            part_keys = _keys(part, shifts)
            begin = starts[part_keys]
            counts = starts[part_keys + np.uint64(1)] - begin
            for rows in _groups(counts):
                found.append(_lookup(queries, part, order, begin, counts, rows, radius, first))
        if len(found) > 64:
            found = [distinct(np.concatenate(found))]
    packed = distinct(np.concatenate(found))
    right, left = (packed >> np.uint64(24)).astype(np.int64), (packed & np.uint64(0xFFFFFF)).astype(np.int64)
    return left, right, np.bitwise_count(queries[left] ^ hashes[right])


def _groups(counts: I64) -> Iterator[I64]:
    """Rows that have candidates, in groups of about eight million candidates."""
    rows = np.flatnonzero(counts)
    if len(rows):
        group = np.cumsum(counts[rows]) >> 23
        yield from np.split(rows, np.flatnonzero(np.diff(group)) + 1)


def _lookup(queries: U64, part: U64, order: I64, begin: I64, counts: I64, rows: I64, radius: int, first: int) -> U64:
    repeats = counts[rows]
    hash_rows = np.repeat(rows, repeats)
    place = np.arange(len(hash_rows)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    query_rows = order[np.repeat(begin[rows], repeats) + place]
    near = np.bitwise_count(queries[query_rows] ^ part[hash_rows]) <= radius
    packed: U64 = ((hash_rows[near] + first).astype(np.uint64) << np.uint64(24)) | query_rows[near].astype(np.uint64)
    return packed

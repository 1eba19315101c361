"""Pairs of 64-bit hashes within a Hamming radius, exactly and without comparing all with all.

Split the 64 bits into b blocks. Two hashes that differ in at most r bits agree in at least b - r blocks. So for each choice
of b - r blocks: move those blocks to the front of each hash, sort, and compare neighbours with equal blocks (a run).
The search misses no pair and is deterministic. The choices are independent of each other, and so are parts of the blocks' values.

Skewed data makes runs long and the work quadratic. Callers therefore collapse equal hashes and leave out flat images; this
module bounds the remaining long runs and returns the number of rows in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb

import numpy as np
from numpy.typing import NDArray

from albef_ds.common.errors import ConfigError, DataError
from data_tools.matching.distinct import distinct, part_of, starts_of_runs

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
class HashPairs:
    """Pairs `left` < `right` uint64 (P,) of hashes within the radius, found by search `number`."""

    left: U64
    right: U64
    bounded_rows: int
    """Hashes in runs longer than MAX_RUN; each was linked to one near hash of its run, not to all."""
    number: int = 0


@dataclass(frozen=True)
class Pairs:
    """Rows `left` and `right` int64 (P,) of hashes within the radius."""

    left: I64
    right: I64
    bounded_rows: int
    """Rows in runs longer than MAX_RUN; each was linked to one near row of its run, not to all."""


def near_pairs(hashes: U64, radius: int) -> Pairs:
    """All pairs left < right of different `hashes` (N,) within `radius` bits (0 to MAX_RADIUS, else ConfigError)."""
    searches = searches_of(len(hashes), radius)
    order = np.argsort(hashes)
    ordered = hashes[order]
    found = merged([search.pairs(ordered) for search in searches])
    left, right = (order[np.searchsorted(ordered, values)].astype(np.int64) for values in (found.left, found.right))
    return Pairs(np.minimum(left, right), np.maximum(left, right), found.bounded_rows)


def merged(parts: Sequence[HashPairs]) -> HashPairs:
    """The different pairs of `parts`. Rows in long runs are those of the search with most of them, over all of its parts."""
    left, right = (
        np.concatenate([np.zeros(0, np.uint64), *(getattr(part, side) for part in parts)]) for side in ("left", "right")
    )
    order = np.lexsort((right, left))
    left, right = left[order], right[order]
    fresh = starts_of_runs(left, right)
    bounded: dict[int, int] = {}
    for part in parts:
        bounded[part.number] = bounded.get(part.number, 0) + part.bounded_rows
    return HashPairs(left[fresh], right[fresh], max(bounded.values(), default=0))


@dataclass(frozen=True)
class Search:
    """The search over one choice of blocks, `number` among those that together find all pairs of the `radius`."""

    number: int
    radius: int
    blocks: tuple[tuple[int, int], ...]
    """(shift, width in bits) of each block."""

    def pairs(self, hashes: U64, part: int = 0, num_parts: int = 1) -> HashPairs:
        """The pairs among different `hashes` that agree in these blocks, of those hashes whose blocks belong to `part`.

        The parts of all `num_parts` together hold what one part holds. Memory is about 20 bytes for each hash of the part.
        """
        width = sum(bits for _, bits in self.blocks)
        segments = [*self.blocks, *_rest(self.blocks)]
        chosen: list[U64] = [np.zeros(0, np.uint64)]
        for first in range(0, len(hashes), _SLICE):
            ordered = _permuted(hashes[first : first + _SLICE], segments)
            if num_parts > 1:
                ordered = ordered[part_of(ordered >> np.uint64(BITS - width), num_parts) == part]
            chosen.append(ordered)
        values = np.concatenate(chosen)
        chosen.clear()
        values.sort()
        equal, long = _runs(values, np.uint64(BITS - width))
        found = [_compare(values, equal & ~long[:-1], self.radius, keep_going=True)]
        if long.any():
            found.append(_compare(values, equal & long[:-1], self.radius, keep_going=False))
        left, right = (_restored(np.concatenate([pair[side] for pair in found]), segments) for side in (0, 1))
        return HashPairs(np.minimum(left, right), np.maximum(left, right), int(long.sum()), self.number)


def searches_of(count: int, radius: int) -> list[Search]:
    """The searches that together find all pairs among `count` hashes. Raises ConfigError if the radius is not 0 to MAX_RADIUS."""
    _check(radius)
    row_bits = max(1, (count - 1).bit_length())
    choices = _block_choices(*_plan(count, count / 2, radius, BITS - row_bits))
    return [Search(number, radius, tuple(blocks)) for number, blocks in enumerate(choices)]


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


def _rest(blocks: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    """The bits outside `blocks`, from the highest, as (shift, width)."""
    rest, high = [], BITS
    for low, width in sorted(blocks, reverse=True):
        rest.append((low + width, high - low - width))
        high = low
    return [(shift, width) for shift, width in [*rest, (0, high)] if width]


def _permuted(hashes: U64, segments: list[tuple[int, int]]) -> U64:
    """The bits of `hashes` in the order of `segments`. Distances stay; equal leading blocks are neighbours when sorted."""
    permuted: U64 = hashes.copy() if len(segments) == 1 else _keys(hashes, segments)
    return permuted


def _restored(values: U64, segments: list[tuple[int, int]]) -> U64:
    hashes = np.zeros(len(values), np.uint64)
    for shift, width in reversed(segments):
        hashes |= (values & np.uint64((1 << width) - 1)) << np.uint64(shift)
        values = values >> np.uint64(width) if width < BITS else values
    restored: U64 = hashes
    return restored


def _runs(values: U64, bits: np.uint64) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of the sorted `values` that agree with the next but for their last `bits`, and of those in runs above MAX_RUN."""
    equal = np.empty(max(len(values) - 1, 0), np.bool_)
    long = np.zeros(len(values), np.bool_)
    for first in range(0, len(equal), _SLICE):
        last = min(first + _SLICE, len(equal))
        equal[first:last] = ((values[first:last] ^ values[first + 1 : last + 1]) >> bits) == 0
    for first in range(0, len(values) - MAX_RUN, _SLICE):
        last = min(first + _SLICE, len(values) - MAX_RUN)
        far = values[first + MAX_RUN : last + MAX_RUN]
        starts = np.flatnonzero(((values[first:last] ^ far) >> bits) == 0) + first
        if len(starts):
            change = np.zeros(last - first + MAX_RUN + 1, np.int32)
            np.add.at(change, starts - first, 1)
            np.add.at(change, starts - first + MAX_RUN + 1, -1)
            long[first : last + MAX_RUN] |= np.cumsum(change)[: last + MAX_RUN - first] > 0
    return equal, long


def _compare(values: U64, equal_to_next: NDArray[np.bool_], radius: int, *, keep_going: bool) -> tuple[U64, U64]:
    """Compares each value with those after it in its run (up to its first hit unless `keep_going`); returns the near pairs."""
    left, right = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    here = np.flatnonzero(equal_to_next)
    distance = 1
    while len(here) and distance <= MAX_RUN:
        a, b = values[here], values[here + distance]
        near = np.bitwise_count(a ^ b) <= radius
        if near.any():
            left.append(a[near])
            right.append(b[near])
        if not keep_going:
            here = here[~near]
        here = here[here + distance < len(equal_to_next)]
        here = here[equal_to_next[here + distance]]
        distance += 1
    return np.concatenate(left), np.concatenate(right)


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

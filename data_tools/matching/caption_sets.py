"""The sets of captions (hashed words and word pairs) in bulk: sorted, without repeats, and their Jaccard similarity.

The sets are those of `captions.shingles(captions.words([captions.normalise(text), ...]))`, computed from Arrow's bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_tools.content import captions
from data_tools.matching.distinct import starts_of_runs

I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
_PAD = np.uint32(0xFFFFFFFF)
_ELEMENTS = 1 << 22
"""Members compared at once."""


def _table(drop: str) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    lower = np.arange(256, dtype=np.uint8)
    lower[ord("A") : ord("Z") + 1] += 32
    kept = np.ones(256, np.bool_)
    kept[[ord(char) for char in drop]] = False
    return lower, kept


_LOWER, _KEPT = _table(",.'!?\"()*#:;~")
_PERSON = b"<person>"


@dataclass(frozen=True)
class Sets:
    """Sets of B captions: `members` uint32 (total,), ascending within each; those of caption i are `starts[i]` to `[i + 1]`."""

    members: U32
    starts: I64

    @property
    def counts(self) -> I64:
        """Members of each set, int64 (B,)."""
        counts: I64 = np.diff(self.starts)
        return counts


def words_of(texts: pa.Array) -> captions.Words:
    """The words of `texts` (B,), strings as listed."""
    return captions.words_of(*_normalised(texts))


def sets_of(texts: pa.Array) -> Sets:
    """The sets of `texts` (B,), strings as listed."""
    batch = words_of(texts)
    hashes, owners = batch.hashes, batch.owners.astype(np.uint64)
    pairs = captions.mix(hashes[:-1] * np.uint64(3) + hashes[1:]) if len(hashes) > 1 else hashes[:0]
    inside = owners[:-1] == owners[1:] if len(hashes) > 1 else np.zeros(0, np.bool_)
    keys = np.concatenate(((owners << np.uint64(32)) | (hashes >> np.uint64(32)), (owners[:-1] << np.uint64(32))[inside]))
    keys[len(hashes) :] |= pairs[inside] >> np.uint64(32)
    keys.sort()
    keys = keys[starts_of_runs(keys)]
    starts = np.searchsorted(keys, np.arange(len(texts) + 1, dtype=np.uint64) << np.uint64(32)).astype(np.int64)
    return Sets(keys.astype(np.uint32), starts)


def _normalised(texts: pa.Array) -> tuple[NDArray[np.uint8], I64]:
    """The bytes of all normalised texts, each after a space, with a space at the end, and the place of each text, and the end.

    Spaces within differ from those of `captions.normalise`: all bytes that are in no word separate words alike.
    """
    plain = pc.string_is_ascii(texts)
    if not pc.all(plain).as_py():
        other = [captions.spaced(captions.normalise(text)) for text in texts.filter(pc.invert(plain)).to_pylist()]
        texts = pc.replace_with_mask(texts, pc.invert(plain), pa.array(other, texts.type))
    joined = pc.binary_join_element_wise(pa.scalar("", texts.type), texts, " ") if len(texts) else texts  # a space before each
    wide = pa.types.is_large_string(joined.type)
    offsets = np.frombuffer(joined.buffers()[1], np.int64 if wide else np.int32)[joined.offset :][: len(joined) + 1]
    content = (
        np.frombuffer(joined.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]] if len(joined) else np.zeros(0, np.uint8)
    )
    offsets = offsets.astype(np.int64) - offsets[0] if len(joined) else np.zeros(1, np.int64)
    kept = _KEPT[content]
    before = np.concatenate(([0], np.cumsum(kept)))
    raw = _LOWER[content[kept]]
    limits = before[offsets] + 1
    raw = np.concatenate((raw, np.full(1, 32, np.uint8)))
    listed = raw.tobytes()
    if _PERSON in listed:
        raw, limits = _without_brackets(raw, listed, limits, np.asarray(plain))
    return raw, limits


def _without_brackets(
    raw: NDArray[np.uint8], listed: bytes, limits: I64, plain: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], I64]:
    """Removes the brackets of each `<person>`, but not from texts that are normalised (not `plain`)."""
    kept = np.ones(len(raw), np.bool_)
    place = listed.find(_PERSON)
    while place >= 0:
        if plain[np.searchsorted(limits, place, side="right") - 1]:
            kept[[place, place + len(_PERSON) - 1]] = False
        place = listed.find(_PERSON, place + len(_PERSON))
    before = np.concatenate(([0], np.cumsum(kept)))
    return raw[kept], before[limits]


def similar(sets: Sets, left: I64, right: I64, threshold: float) -> NDArray[np.bool_]:
    """True for the pairs (P,) of sets `left` and `right` (numbers) with a Jaccard similarity of at least `threshold`.

    Two empty sets have the similarity 1.
    """
    counts = sets.counts
    a, b = counts[left], counts[right]
    low, high = np.minimum(a, b), np.maximum(a, b)
    found = low / np.maximum(high, 1) >= threshold  # the similarity is at most this
    found[high == 0] = threshold <= 1
    places = np.flatnonzero(found & (high > 0))
    width = 8
    while len(places):
        fits = high[places] <= width
        here, places = places[fits], places[~fits]
        width_of = width
        width = width + 8 if width < 64 else 2 * width
        if not len(here):
            continue
        members = distinct_numbers(left[here], right[here], len(counts))
        rows = _padded(sets, members, width_of)
        number = np.empty(len(counts), np.int32)
        number[members] = np.arange(len(members), dtype=np.int32)
        step = max(1, _ELEMENTS // (2 * width_of))
        for first in range(0, len(here), step):
            part = here[first : first + step]
            shared = _shared(rows[number[left[part]]], rows[number[right[part]]])
            found[part] = shared / (a[part] + b[part] - shared) >= threshold
    return found


def distinct_numbers(left: I64, right: I64, count: int) -> I64:
    """The numbers below `count` that are in `left` or `right`, ascending."""
    present = np.zeros(count, np.bool_)
    present[left] = True
    present[right] = True
    return np.flatnonzero(present)


def _padded(sets: Sets, numbers: I64, width: int) -> U32:
    rows = np.full((len(numbers), width), _PAD)
    counts = sets.counts[numbers]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    places = np.repeat(np.arange(len(numbers)) * width, counts) + within
    rows.reshape(-1)[places] = sets.members[np.repeat(sets.starts[numbers], counts) + within]
    return rows


def _shared(left: U32, right: U32) -> I64:
    """Members in both of two padded sets, for each row."""
    both = np.concatenate((left, right), axis=1)
    both.sort(axis=1)
    equal = (both[:, 1:] == both[:, :-1]) & (both[:, 1:] != _PAD)
    shared: I64 = np.count_nonzero(equal, axis=1)
    return shared

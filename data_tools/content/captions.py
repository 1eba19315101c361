"""Describes captions in bulk: word hashes, statistics, MinHash bands, and exact Jaccard similarity.

Everything works on a batch at once in numpy: captions are joined into one byte array, a table of separator bytes finds words,
and a word's hash is a difference of prefix sums. A caption's set is its words and its pairs of neighbouring words, so word
order counts.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]

NUM_PERMUTATIONS = 64
NUM_BANDS = 16
"""Bands of 4 permutations: a pair with Jaccard similarity 0.7 shares at least one with probability 0.988."""

_REMOVED = re.compile(r"[,.'!?\"()*#:;~]")
_SPACED = re.compile(r"[-/]")
_WIDE = re.compile("([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0002ffff])")  # scripts written without spaces
_LETTER_SCRIPT = re.compile(r"^(LATIN|CYRILLIC|GREEK|ARABIC|HEBREW|DEVANAGARI|THAI|HIRAGANA|KATAKANA|HANGUL|CJK)")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_ROUND = 1 << 13  # captions signed at once, few enough to stay in cache


def _separator_table() -> NDArray[np.bool_]:
    table = np.ones(256, np.bool_)
    table[[*range(ord("a"), ord("z") + 1), *range(ord("0"), ord("9") + 1), *range(128, 256)]] = False
    return table


_SEPARATOR = _separator_table()


def normalise(caption: str) -> str:
    """The form in which captions are compared: lower case, no punctuation, single spaces (the released ALBEF rules)."""
    text = _SPACED.sub(" ", _REMOVED.sub("", caption.lower())).replace("<person>", "person")
    return " ".join(text.split())


def script_of(caption: str) -> str:
    """The script of most letters, in lower case: `latin`, `cjk`, ...; `none` without letters, `other` if unknown."""
    if caption.isascii():
        return "latin" if any(char.isalpha() for char in caption) else "none"
    counts: Counter[str] = Counter()
    for char in caption:
        if char.isascii():
            if char.isalpha():
                counts["latin"] += 1
        elif char.isalpha():
            match = _LETTER_SCRIPT.match(unicodedata.name(char, ""))
            counts[match[1].lower() if match else "other"] += 1
    return counts.most_common(1)[0][0] if counts else "none"


def mix(values: U64) -> U64:
    """SplitMix64's finaliser: a bijection of uint64 in which every input bit affects every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: U64 = values ^ (values >> np.uint64(31))
    return mixed


@dataclass(frozen=True)
class Words:
    """The words of B captions: `hashes` uint64 (total,) in order; those of caption i are `starts[i]` to `starts[i + 1]`."""

    hashes: U64
    starts: NDArray[np.int64]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Words per caption, int64 (B,)."""
        counts: NDArray[np.int64] = np.diff(self.starts)
        return counts

    @property
    def owners(self) -> NDArray[np.int64]:
        """Index of each word's caption, int64 (total,)."""
        return np.repeat(np.arange(len(self.starts) - 1), self.counts)


def spaced(text: str) -> str:
    """`text` with a space around each character of the scripts that are written without spaces."""
    return text if text.isascii() else _WIDE.sub(r" \1 ", text)


def words(texts: list[str]) -> Words:
    """Words of `texts`, which come from `normalise`."""
    encoded = [spaced(text).encode("utf-8", "surrogatepass") for text in texts]
    raw = np.frombuffer(b" " + b" ".join(encoded) + b" ", np.uint8)
    return words_of(raw, np.cumsum([1, *(len(text) + 1 for text in encoded)]))


def words_of(raw: NDArray[np.uint8], limits: NDArray[np.int64]) -> Words:
    """Words of texts in UTF-8, with spaces before, between and after them; text i is at `limits[i]`, the end at the last one."""
    separator = _SEPARATOR[raw]
    begins = np.flatnonzero(separator[:-1] & ~separator[1:]) + 1
    ends = np.flatnonzero(~separator[:-1] & separator[1:]) + 1
    # A polynomial hash with an odd base; dividing by the base's power makes it independent of the word's position.
    power, inverse = _powers(max(len(raw) - 1, 1).bit_length())
    prefix = np.concatenate(([np.uint64(0)], np.cumsum((raw.astype(np.uint64) + np.uint64(1)) * power[: len(raw)])))
    hashes = mix((prefix[ends] - prefix[begins]) * inverse[begins])
    return Words(hashes, np.searchsorted(begins, limits).astype(np.int64))


@lru_cache(maxsize=1)
def _powers(bits: int) -> tuple[U64, U64]:
    """The powers 1, 2, ... of the hash's base and of its inverse, 2^bits of each."""
    inverse_base = np.uint64(pow(int(_MULTIPLIER), -1, 1 << 64))
    power = np.cumprod(np.full(1 << bits, _MULTIPLIER, np.uint64), dtype=np.uint64)
    inverse = np.cumprod(np.full(1 << bits, inverse_base, np.uint64), dtype=np.uint64)
    return power, inverse


def text_hashes(batch: Words) -> U64:
    """A hash per caption, uint64 (B,), equal for the same words in the same order."""
    place = np.arange(len(batch.hashes)) - np.repeat(batch.starts[:-1], batch.counts)
    terms = mix(batch.hashes + place.astype(np.uint64) * _MULTIPLIER)
    return _segment_sums(terms, batch.starts)


def _segment_sums(values: U64, starts: NDArray[np.int64]) -> U64:
    prefix = np.concatenate(([np.uint64(0)], np.cumsum(values)))
    sums: U64 = prefix[starts[1:]] - prefix[starts[:-1]]
    return sums


def repeated_shares(batch: Words) -> NDArray[np.float32]:
    """Share of each caption's words that occur earlier in it, float32 (B,)."""
    owners = batch.owners
    order = np.lexsort((batch.hashes, owners))
    same = (batch.hashes[order][1:] == batch.hashes[order][:-1]) & (owners[order][1:] == owners[order][:-1])
    repeats = np.bincount(owners[order][1:][same], minlength=len(batch.counts))
    return (repeats / np.maximum(batch.counts, 1)).astype(np.float32)


def shingles(batch: Words) -> Words:
    """Words and pairs of neighbouring words of each caption (with repeats), grouped by caption."""
    pairs = mix(batch.hashes[:-1] * np.uint64(3) + batch.hashes[1:]) if len(batch.hashes) > 1 else batch.hashes[:0]
    owners = batch.owners
    inside = owners[:-1] == owners[1:] if len(owners) > 1 else np.zeros(0, np.bool_)
    all_owners = np.concatenate((owners, owners[:-1][inside]))
    order = np.argsort(all_owners, kind="stable")
    counts = np.bincount(all_owners, minlength=len(batch.counts))
    return Words(np.concatenate((batch.hashes, pairs[inside]))[order], np.concatenate(([0], np.cumsum(counts))))


def _permutations() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    seeds = mix(np.arange(1, 2 * NUM_PERMUTATIONS + 1, dtype=np.uint64) * _MULTIPLIER).astype(np.uint32)
    return seeds[:NUM_PERMUTATIONS] | np.uint32(1), seeds[NUM_PERMUTATIONS:]


_FACTOR, _OFFSET = _permutations()


def signature(sets: Words) -> NDArray[np.uint32]:
    """MinHash signatures, uint32 (B, NUM_PERMUTATIONS); captions without words get all ones."""
    out = np.full((len(sets.counts), NUM_PERMUTATIONS), np.uint32(0xFFFFFFFF))
    for first in range(0, len(out), _ROUND):
        last = min(first + _ROUND, len(out))
        starts = sets.starts[first : last + 1]
        filled = np.flatnonzero(np.diff(starts))
        if not len(filled):
            continue
        values = (sets.hashes[starts[0] : starts[-1]] >> np.uint64(32)).astype(np.uint32)
        offsets = starts[filled] - starts[0]
        for k in range(NUM_PERMUTATIONS):
            permuted = values * _FACTOR[k] + _OFFSET[k]
            permuted ^= permuted >> np.uint32(15)
            permuted *= np.uint32(0x2C1B3C6D)
            out[first + filled, k] = np.minimum.reduceat(permuted, offsets)
    return out


def bands(signatures: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A key per band, uint32 (B, NUM_BANDS); captions with an equal key are candidates."""
    rows = signatures.reshape(len(signatures), NUM_BANDS, NUM_PERMUTATIONS // NUM_BANDS).astype(np.uint64)
    keys = np.zeros(rows.shape[:2], np.uint64)
    for k in range(rows.shape[2]):
        keys = mix(keys + rows[:, :, k])
    upper: NDArray[np.uint32] = (keys >> np.uint64(32)).astype(np.uint32)
    return upper


def jaccard(left: Words, right: Words) -> NDArray[np.float64]:
    """Jaccard similarity of set i of `left` and of `right` (both from `shingles`), float64 (B,); 1 for two empty sets."""
    # Key: pair number, 40 bits of the hash, side. One sort groups the members of a pair and makes shared ones neighbours.
    keys = [
        (sets.owners.astype(np.uint64) << np.uint64(41)) | (sets.hashes >> np.uint64(24) << np.uint64(1)) | np.uint64(side)
        for side, sets in enumerate((left, right))
    ]
    packed = np.sort(np.concatenate(keys))
    packed = packed[np.concatenate(([True], packed[1:] != packed[:-1]))] if len(packed) else packed
    owners, members = (packed >> np.uint64(41)).astype(np.int64), packed >> np.uint64(1)
    pairs = len(left.counts)
    total = np.bincount(owners, minlength=pairs)
    shared = np.bincount(owners[1:][members[1:] == members[:-1]], minlength=pairs)
    union = total - shared
    return np.where(union > 0, shared / np.maximum(union, 1), 1.0)

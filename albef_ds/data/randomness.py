"""Random numbers as a pure function of (seed, position, purpose).

No state is kept between samples, so the numbers do not depend on the rank or worker. The hash function is written out here, so
they do not depend on the version of a library either.
"""

from __future__ import annotations

import random
from typing import Final

import numpy as np
from numpy.typing import NDArray

CAPTION: Final = 1
CROP: Final = 2
AUGMENT: Final = 3
MASK: Final = 4
SHARDS: Final = 5
WINDOW: Final = 6
MIXTURE: Final = 7
PARTS: Final = 16
GROUPS: Final = 17

_WORD = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


def mix(*values: int) -> int:
    """Returns a 64-bit hash of integers: splitmix64's finaliser (Steele et al., OOPSLA 2014), chained."""
    state = 0
    for value in values:
        state = (state ^ (value & _WORD)) + _GAMMA & _WORD
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _WORD
        state ^= state >> 31
    return state


def generator(seed: int, position: int, purpose: int) -> random.Random:
    """Returns the generator of one sample for one `purpose`."""
    return random.Random(mix(seed, position, purpose))


def permutation(size: int, key: int) -> NDArray[np.int64]:
    """Returns a permutation of range(size), int64 (size,): its elements sorted by their hash under `key`."""
    state = np.arange(size, dtype=np.uint64) * np.uint64(_GAMMA) + np.uint64(key & _WORD)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(state ^ (state >> np.uint64(31)), kind="stable").astype(np.int64)

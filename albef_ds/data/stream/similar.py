"""Sequences of a window's samples in which similar ones are neighbours, drawn anew for every epoch.

The order that `albef-data group` wrote gives every sample a place, and places that are close mean pairs that are alike. For each
epoch the samples of a window are split at random into parts. Each part is sorted by place and cut into groups, which are then
shuffled. Since the parts are random, a sample meets others of its neighbourhood in every epoch. All of it is a pure function of
seed, epoch and window.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from albef_ds.data import randomness

I64 = NDArray[np.int64]


def similar_sequence(places: NDArray[np.integer], group_size: int, part_size: int, position: int, keys: tuple[int, ...]) -> I64:
    """Returns the numbers 0 to W - 1 of a window's samples in the order of training, int64 (W,).

    Args:
        places: the samples' places in the order of similar pairs, (W,).
        group_size: samples of a group; groups begin at multiples of it, counted over all epochs, as micro-batches do.
        part_size: most samples of a part, in which groups are formed; there are always two parts or more.
        position: position of the window's first sample in the run.
        keys: seed, epoch and number of the window.
    """
    size = len(places)
    count = max(2, -(-size // part_size)) if size >= 2 * group_size else 1
    drawn = randomness.permutation(size, randomness.mix(*keys, randomness.PARTS))
    sequence = np.empty(size, np.int64)
    end = 0
    for number, part in enumerate(np.array_split(drawn, count)):
        ordered = part[np.argsort(places[part], kind="stable")]
        # The first cut is drawn too: else the same borders would part the same pairs.
        turned = np.roll(ordered, randomness.mix(*keys, randomness.PARTS, number) % max(1, len(part)))
        sequence[end : end + len(part)] = turned
        end += len(part)
    lead = min(-position % group_size, size)
    groups = (size - lead) // group_size
    shuffled = randomness.permutation(groups, randomness.mix(*keys, randomness.GROUPS))
    whole = sequence[lead : lead + groups * group_size].reshape(groups, group_size)
    return np.concatenate([sequence[:lead], whole[shuffled].ravel(), sequence[lead + groups * group_size :]])

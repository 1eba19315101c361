"""The order of samples: a pure function of (sample counts per shard, seed) with random access.

A run takes samples from one endless sequence of positions; position = epoch * num_samples + offset. Every epoch is a permutation
of all samples. Up to `window_samples` samples, it is drawn over the corpus. Above, shards are permuted, and samples are shuffled
within windows of consecutive shards with about `window_samples` samples, which bounds memory (8 bytes per sample of a window) and
keeps reads local. `albef-data` has shuffled the samples of its shards globally, so a window is a fair sample of the corpus. With
a `group_size`, that many consecutive samples of a window are permuted as one; an incomplete group stays at the window's end.
With the places of an order of similar pairs, a group has samples that are close there (`albef_ds.data.stream.similar`).

`SampleOrder.of` gives a run's order. This module does not deal with files, ranks or batches.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from albef_ds.config.schema import RunConfig
from albef_ds.data import randomness
from albef_ds.data.shards.order_file import Places, load_order
from albef_ds.data.store.open import load_manifest, read_beside
from albef_ds.data.stream.similar import similar_sequence

WINDOW_SAMPLES = 1 << 20


class SampleOrder:
    """Maps a position to (shard, row) for shards of `counts` samples.

    Args:
        counts: samples per shard.
        seed: of everything random.
        window_samples: samples shuffled together.
        group_size: samples that stay together.
        places: place of each sample in an order of similar pairs, (num_samples,); None: groups of consecutive samples.
        part_size: with `places`, samples among which groups are formed.
    """

    def __init__(
        self,
        counts: Sequence[int],
        seed: int,
        window_samples: int = WINDOW_SAMPLES,
        group_size: int = 1,
        places: Places | None = None,
        part_size: int = WINDOW_SAMPLES,
    ) -> None:
        self._counts = np.asarray(counts, np.int64)
        self._seed = seed
        self._group_size = group_size
        self._window_samples = window_samples
        self.num_samples = int(self._counts.sum())
        if self.num_samples == 0:
            raise ValueError("an order needs at least one sample")
        self._epochs: dict[int, tuple[list[int], list[int], list[int]]] = {}
        self._places, self._part_size = places, part_size
        self._first_sample = np.cumsum(self._counts) - self._counts
        self._sequences: dict[tuple[int, int], NDArray[np.int64]] = {}

    @classmethod
    def of(cls, counts: Sequence[int], config: RunConfig, shards: str = "") -> SampleOrder:
        """Returns the order in which a run reads (and stages) a corpus with `counts` samples per shard.

        `shards` is the folder or URL of the corpus, `data.shards` if it is empty. Raises `UserError` if `data.group_order` names
        an order that the corpus does not have.
        """
        data, places = config.data, None
        if data.group_order:
            shards = os.path.expandvars(shards or data.shards)
            places = load_order(data.group_order, load_manifest(shards), lambda name: read_beside(shards, name), shards)
        windows = {"window_samples": data.window, "group_size": data.group_size}
        return cls(counts, config.train.seed, **windows, places=places, part_size=data.group_window)

    @property
    def num_shards(self) -> int:
        """Number of shards, including empty ones."""
        return len(self._counts)

    def locate(self, position: int) -> tuple[int, int]:
        """Returns shard number and row of the sample at `position` (0 or more)."""
        epoch, offset = divmod(position, self.num_samples)
        shards, starts, windows = self._layout(epoch)
        window = bisect_right(windows, offset) - 1
        first, end = windows[window], windows[window + 1] if window + 1 < len(windows) else self.num_samples
        if self._places is not None:
            offset = first + int(self._sequence(epoch, window, first, end)[offset - first])
            place = bisect_right(starts, offset) - 1
            return shards[place], offset - starts[place]
        groups = (end - first) // self._group_size
        group, within = divmod(offset - first, self._group_size)
        if group < groups:
            shuffled = _permutation(groups, self._seed, epoch, window)
            offset = first + int(shuffled[group]) * self._group_size + within
        place = bisect_right(starts, offset) - 1
        return shards[place], offset - starts[place]

    def shards_ahead(self, position: int) -> Iterator[tuple[list[int], float]]:
        """Yields the shards of each window from that of `position` on, and the share of the window's samples still to come.

        Ends after the next epoch, so every shard has come at least once.
        """
        epoch, offset = divmod(position, self.num_samples)
        for later in (0, 1):
            shards, starts, windows = self._layout(epoch + later)
            for first, end in pairwise([*windows, self.num_samples]):
                if later or end > offset:
                    left = 1.0 if later else min(1.0, (end - offset) / (end - first))
                    yield shards[bisect_left(starts, first) : bisect_left(starts, end)], left

    def _sequence(self, epoch: int, window: int, first: int, end: int) -> NDArray[np.int64]:
        """Returns the offsets of a window's samples, from the window's start, in the order of training."""
        if (epoch, window) not in self._sequences:
            assert self._places is not None
            shards, starts, _ = self._layout(epoch)
            inside = shards[bisect_left(starts, first) : bisect_left(starts, end)]
            places = np.concatenate([self._places[self._first_sample[n] :][: self._counts[n]] for n in inside])
            keys, position = (self._seed, epoch, window), epoch * self.num_samples + first
            if len(self._sequences) > 2:
                del self._sequences[next(iter(self._sequences))]
            self._sequences[epoch, window] = similar_sequence(places, self._group_size, self._part_size, position, keys)
        return self._sequences[epoch, window]

    def _layout(self, epoch: int) -> tuple[list[int], list[int], list[int]]:
        """Returns an epoch's shards in order, the offset at which each starts, and the offsets at which windows start."""
        known = self._epochs
        if epoch not in known:
            shards = randomness.permutation(len(self._counts), randomness.mix(self._seed, epoch, randomness.SHARDS))
            shards = shards[self._counts[shards] > 0]
            starts = np.cumsum(self._counts[shards]) - self._counts[shards]
            # A window ends with the shard that reaches its size; shards are never split.
            windows = starts[np.unique(starts // self._window_samples, return_index=True)[1]]
            # The dictionary is replaced and never changed: the thread that fills the cache of a node looks ahead in it.
            kept = {number: layout for number, layout in known.items() if len(known) < 2 or number != min(known)}
            known = self._epochs = {**kept, epoch: (shards.tolist(), starts.tolist(), windows.tolist())}
        return known[epoch]


@lru_cache(maxsize=3)
def _permutation(size: int, seed: int, epoch: int, window: int) -> NDArray[np.int64]:
    return randomness.permutation(size, randomness.mix(seed, epoch, randomness.WINDOW, window))

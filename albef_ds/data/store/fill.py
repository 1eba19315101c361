"""Fills a node's cache with whole shards, in the order in which a run will read them.

One thread of one process per node and corpus does it: the one that holds the corpus's lock. If that process ends, another one
takes over. The shards that are needed last give way first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from albef_ds.common.errors import DataError
from albef_ds.data.shards.format import index_name
from albef_ds.data.store.reader import StoreReader

Ahead = Callable[[], Iterator[tuple[list[int], float]]]
"""Gives the shards in the order of their next use from the run's position on: groups that are read together, each with the share
of its samples that is still to come."""
_PAUSE = 0.5
"""Seconds between two looks at a cache that is full, or that another process fills."""
_AFTER_FAILURE = 30.0
_WORTH_IT = 0.5
"""Share of a shard's samples that the node must still read for the whole shard to be fetched, unless all of them fit."""


class CacheFiller:
    """A thread that fills the cache of `reader` until `close`.

    Args:
        reader: the corpus and its cache.
        ahead: the shards that come next.
        max_bytes: bytes of the corpus to keep.
        share: part of the run's samples that this node reads.
    """

    def __init__(self, reader: StoreReader, ahead: Ahead, max_bytes: int, share: float) -> None:
        self._reader, self._ahead, self._share = reader, ahead, share
        self._indices = {index_name(shard.name): 48 * shard.num_samples + 256 for shard in reader.manifest.shards}
        self._budget = max_bytes - sum(self._indices.values())
        self._fits = sum(reader.sizes) <= self._budget
        self._given_up: dict[int, float] = {}
        self._stop = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        """Ends the thread after its current shard."""
        self._stop.set()

    def _run(self) -> None:
        pause = 0.0
        while not self._stop.wait(pause):
            pause = _PAUSE
            try:
                with self._reader.cache.leading() as leads:
                    while leads and not self._stop.wait(0.0 if self._fetch_next() else _PAUSE):
                        pass
            except (OSError, DataError):
                # A store that fails ends the run where a sample needs it; a full disk leaves the requests for ranges.
                pause = _AFTER_FAILURE

    def _fetch_next(self) -> bool:
        """Fetches the missing shard that is needed first; returns False if there is none."""
        wanted = self.wanted()
        now = time.monotonic()
        missing = next((number for number in wanted if not self._has(number) and self._given_up.get(number, 0.0) <= now), None)
        if missing is None:
            return False
        keep = [*self._indices] + [self._reader.shard_name(number) for number in wanted]
        if not self._reader.fetch_shard(missing, keep, spare=self._missing_index_bytes()):
            self._given_up[missing] = now + _AFTER_FAILURE
        return True

    def wanted(self) -> list[int]:
        """Returns the shards that the cache should hold now, the one needed soonest first."""
        sizes, chosen = self._reader.sizes, dict[int, None]()
        room = self._budget
        for group, left in self._ahead():
            new = sorted((number for number in group if number not in chosen), key=lambda number: not self._has(number))
            for number in new:
                if not self._has(number) and not self._fits and left * self._share < _WORTH_IT:
                    continue
                if sizes[number] > room:
                    return list(chosen)
                room -= sizes[number]
                chosen[number] = None
        return list(chosen)

    def _has(self, number: int) -> bool:
        return self._reader.cache.has(self._reader.shard_name(number))

    def _missing_index_bytes(self) -> int:
        return sum(size for name, size in self._indices.items() if not self._reader.cache.has(name))

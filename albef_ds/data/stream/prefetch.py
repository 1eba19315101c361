"""Fetches a stream's next samples from an object store: the order is known, so nothing is guessed."""

from __future__ import annotations

import os
from collections.abc import Iterator

from torch.utils.data import get_worker_info

from albef_ds.config.schema import RunConfig
from albef_ds.data.store.fill import CacheFiller
from albef_ds.data.store.open import cache_bytes
from albef_ds.data.store.reader import StoreReader
from albef_ds.data.stream.loader import Share
from albef_ds.data.stream.order import SampleOrder
from albef_ds.data.stream.ordered import MicroBatchStarts


class Prefetch:
    """Announces samples of the next micro-batches to `reader`, and fills the node's cache. Picklable, and usable after a fork."""

    def __init__(self, reader: StoreReader, order: SampleOrder, config: RunConfig, share: Share) -> None:
        self._reader, self._order = reader, order
        self._starts = MicroBatchStarts.of(config, share)
        self._size = config.train.micro_batch_size
        self._batches = -(-config.data.fetch_ahead // self._size)
        self._bytes = cache_bytes(config.data)
        # Launchers count the ranks of a node in this variable.
        self._node_share = min(1.0, int(os.environ.get("LOCAL_WORLD_SIZE") or "1") / share.world_size)
        self._position = self._announced = share.start_position
        self._filler: tuple[int, CacheFiller] | None = None

    def before(self, start: int) -> None:
        """Sends requests for the micro-batch at `start` and this process's next ones, once each."""
        self._position = start
        if self._filler is None or self._filler[0] != os.getpid():
            self._filler = (os.getpid(), CacheFiller(self._reader, self._ahead, self._bytes, self._node_share))
            self._announced = start - 1
        info = get_worker_info()
        step = info.num_workers if info else 1
        for number in range(self._batches + 1):
            later = self._starts.following(start, number * step)
            if later > self._announced:
                self._announced = later
                self._reader.ahead(self._order.locate(position) for position in range(later, later + self._size))

    def close(self) -> None:
        """Ends the thread of this process that fills the cache."""
        if self._filler is not None and self._filler[0] == os.getpid():
            self._filler[1].close()
        self._filler = None

    def _ahead(self) -> Iterator[tuple[list[int], float]]:
        return self._order.shards_ahead(self._position)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_filler": None}

"""Fetches a stream's next samples from object stores: the order is known, so nothing is guessed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from torch.utils.data import get_worker_info

from albef_ds.config.schema import RunConfig
from albef_ds.data.store.fill import CacheFiller
from albef_ds.data.store.reader import Place, StoreReader
from albef_ds.data.stream.loader import Share
from albef_ds.data.stream.ordered import MicroBatchStarts


class Filling(NamedTuple):
    """A corpus whose shards come into the node's cache."""

    reader: StoreReader
    shards_ahead: Callable[[int], Iterator[tuple[list[int], float]]]
    """The shards that come next at a position of the run, as `SampleOrder.shards_ahead`."""
    max_bytes: int


class _Ahead(Protocol):
    def ahead(self, places: Iterable[Place]) -> None:
        """Sends requests for samples."""


class Prefetch:
    """Announces samples of the next micro-batches to `reader`, and fills the node's cache. Picklable, and usable after a fork.

    Args:
        reader: the corpora.
        locate: position -> shard and row.
        fillings: corpora in object stores.
        config: the run's settings.
        share: this process's share.
    """

    def __init__(
        self, reader: _Ahead, locate: Callable[[int], Place], fillings: Sequence[Filling], config: RunConfig, share: Share
    ) -> None:
        self._reader, self._locate, self._fillings = reader, locate, fillings
        self._starts = MicroBatchStarts.of(config, share)
        self._size = config.train.micro_batch_size
        self._batches = -(-config.data.fetch_ahead // self._size)
        # torchrun and DeepSpeed's launcher count the ranks of a node in these variables.
        ranks_here = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or "1"
        self._node_share = min(1.0, int(ranks_here) / share.world_size)
        self._position = self._announced = share.start_position
        self._process = 0
        self._fillers: list[CacheFiller] = []

    def before(self, start: int) -> None:
        """Sends requests for the micro-batch at `start` and this process's next ones, once each."""
        self._position = start
        if self._process != os.getpid():
            self._process = os.getpid()
            self._fillers = [
                CacheFiller(filling.reader, partial(self._next, filling), filling.max_bytes, self._node_share)
                for filling in self._fillings
            ]
            self._announced = start - 1
        info = get_worker_info()
        step = info.num_workers if info else 1
        for number in range(self._batches + 1):
            later = self._starts.following(start, number * step)
            if later > self._announced:
                self._announced = later
                self._reader.ahead(self._locate(position) for position in range(later, later + self._size))

    def close(self) -> None:
        """Ends the threads of this process that fill the cache."""
        if self._process == os.getpid():
            for filler in self._fillers:
                filler.close()
        self._process, self._fillers = 0, []

    def _next(self, filling: Filling) -> Iterator[tuple[list[int], float]]:
        return filling.shards_ahead(self._position)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_process": 0, "_fillers": []}

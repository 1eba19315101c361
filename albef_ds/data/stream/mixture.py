"""The corpora of `data.mixture` as one: a reader whose shards are those of all corpora, and the order of their samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import accumulate

import numpy as np

from albef_ds.config.mixture import CorpusShare
from albef_ds.config.schema import RunConfig
from albef_ds.data.shards.reader import SampleReader
from albef_ds.data.store.open import cache_bytes, open_corpus
from albef_ds.data.store.reader import StoreReader
from albef_ds.data.stream.mixed_order import MixedOrder, Section, quotas_of
from albef_ds.data.stream.order import SampleOrder
from albef_ds.data.stream.prefetch import Filling
from albef_ds.data.stream.thresholds import kept_rows


class MixedReader:
    """Reads sample `row` of shard `number` of several corpora, whose shards are numbered one after the other.

    Rows count the samples above a corpus's thresholds only.
    """

    def __init__(self, shares: Sequence[CorpusShare], config: RunConfig) -> None:
        self.shares = shares
        self.readers: list[SampleReader] = [open_corpus(share.shards, config.data) for share in shares]
        self._kept = [kept_rows(share, reader, config) for share, reader in zip(shares, self.readers, strict=True)]
        self._first_shard = [0, *accumulate(len(reader.counts) for reader in self.readers)]

    def counts(self, corpus: int) -> list[int]:
        """Returns the number of usable samples per shard of `corpus`."""
        kept = self._kept[corpus]
        return self.readers[corpus].counts if kept is None else [len(rows) for rows in kept]

    def place(self, number: int, row: int) -> tuple[int, int, int]:
        """Returns corpus, shard and row in the corpus of a sample."""
        corpus = int(np.searchsorted(self._first_shard, number, side="right")) - 1
        shard, kept = number - self._first_shard[corpus], self._kept[corpus]
        return corpus, shard, row if kept is None else int(kept[shard][row])

    def read(self, number: int, row: int) -> tuple[bytes, bytes]:
        """Returns image bytes and JSON bytes of one sample. Raises as `SampleReader.read`."""
        corpus, shard, place = self.place(number, row)
        return self.readers[corpus].read(shard, place)

    def ahead(self, places: Iterable[tuple[int, int]]) -> None:
        """Sends requests for the samples at `places` that are in object stores, as `StoreReader.ahead`."""
        for number, row in places:
            corpus, shard, place = self.place(number, row)
            reader = self.readers[corpus]
            if isinstance(reader, StoreReader):
                reader.ahead([(shard, place)])

    def fillings(self, order: MixedOrder, config: RunConfig) -> list[Filling]:
        """Returns the part of the node's cache of each corpus in an object store, in proportion to their bytes."""
        stores = {number: reader for number, reader in enumerate(self.readers) if isinstance(reader, StoreReader)}
        total = sum(sum(reader.sizes) for reader in stores.values())
        return [
            Filling(reader, partial(order.shards_ahead, number), int(cache_bytes(config.data) * sum(reader.sizes) / total))
            for number, reader in stores.items()
        ]

    def close(self) -> None:
        """Closes all corpora."""
        for reader in self.readers:
            reader.close()


def quotas(shares: Sequence[CorpusShare], sizes: Sequence[int]) -> dict[str, int]:
    """Returns the quota of each corpus: by weights, by samples of an epoch, or else by its number of samples."""
    return quotas_of({share.name: share.weight or share.samples or size for share, size in zip(shares, sizes, strict=True)})


def mixed_order(reader: MixedReader, config: RunConfig, sections: Sequence[Section], start: int) -> MixedOrder:
    """Returns the order of a run's mixture, whose `sections` so far are followed by one at `start` if its quotas have changed."""
    orders = {
        share.name: SampleOrder.of(reader.counts(number), config, share.shards) for number, share in enumerate(reader.shares)
    }
    sizes = [order.num_samples for order in orders.values()]
    epoch = sum(share.samples for share in reader.shares) or sum(sizes)
    now = quotas(reader.shares, sizes)
    if not sections:
        sections = [(0, now)]
    elif dict(sections[-1][1]) != now:
        sections = [*sections, (start, now)]
    return MixedOrder(orders, sections, epoch, config.train.seed, config.data.group_size)

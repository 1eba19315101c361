"""The training stream over a corpus with a manifest, in a folder or an object store, or over a mixture of several."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from albef_ds.config.mixture import Captions, parse_mixture
from albef_ds.config.schema import RunConfig
from albef_ds.data.batch import ImageTextBatch
from albef_ds.data.images.view import RawImages
from albef_ds.data.shards.format import sample_key
from albef_ds.data.store.open import cache_bytes, open_corpus
from albef_ds.data.store.reader import StoreReader
from albef_ds.data.stream.loader import Share
from albef_ds.data.stream.mixed_order import MixedOrder, Section
from albef_ds.data.stream.mixture import MixedReader, mixed_order
from albef_ds.data.stream.order import SampleOrder
from albef_ds.data.stream.ordered import MicroBatches, OrderedStream
from albef_ds.data.stream.prefetch import Filling, Prefetch
from albef_ds.data.stream.samples import Example, SampleBuilder, collate, read_text


class _Pairs(MicroBatches):
    """Micro-batches of image-text pairs; subclasses find the samples."""

    _prefetch: Prefetch | None = None

    def __init__(self, order: SampleOrder | MixedOrder, config: RunConfig) -> None:
        super().__init__(order, config.train.micro_batch_size)
        self._builder = SampleBuilder(config.training_data, config.model.vision.image_size, config.train.seed)

    def before(self, start: int) -> None:
        if self._prefetch is not None:
            self._prefetch.before(start)

    def collate(self, samples: list[Example]) -> ImageTextBatch[RawImages]:
        return collate(samples)

    @property
    def num_cut(self) -> int:
        return self._builder.tokenizer.num_cut

    def close(self) -> None:
        if self._prefetch is not None:
            self._prefetch.close()


class _CorpusMicroBatches(_Pairs):
    def __init__(self, config: RunConfig, share: Share) -> None:
        self._reader = open_corpus(config.data.shards, config.data)
        order = SampleOrder.of(self._reader.counts, config)
        super().__init__(order, config)
        self._first_sample = [0, *accumulate(self._reader.counts)]
        if isinstance(self._reader, StoreReader):
            filling = Filling(self._reader, order.shards_ahead, cache_bytes(config.data))
            self._prefetch = Prefetch(self._reader, order.locate, [filling], config, share)

    def sample(self, shard: int, row: int, position: int) -> Example:
        image, raw_meta = self._reader.read(shard, row)
        captions, image_id = read_text(raw_meta)
        return self._builder.build(image, captions, image_id, self.name(shard, row)[1], position)

    def name(self, shard: int, row: int) -> tuple[str, str]:
        return self._reader.shard_name(shard), sample_key(self._first_sample[shard] + row)

    def close(self) -> None:
        super().close()
        self._reader.close()


class _MixtureMicroBatches(_Pairs):
    def __init__(self, config: RunConfig, share: Share, sections: Sequence[Section]) -> None:
        self._shares = parse_mixture(config.data.mixture)
        self._reader = MixedReader(self._shares, config)
        order = mixed_order(self._reader, config, sections, share.start_position)
        super().__init__(order, config)
        self._first_sample = [[0, *accumulate(reader.counts)] for reader in self._reader.readers]
        if fillings := self._reader.fillings(order, config):
            self._prefetch = Prefetch(self._reader, order.locate, fillings, config, share)

    def sample(self, shard: int, row: int, position: int) -> Example:
        image, raw_meta = self._reader.read(shard, row)
        captions, image_id = read_text(raw_meta)
        captions = chosen(captions, self._shares[self._reader.place(shard, row)[0]].captions)
        return self._builder.build(image, captions, image_id, self.name(shard, row)[1], position)

    def name(self, shard: int, row: int) -> tuple[str, str]:
        corpus, number, place = self._reader.place(shard, row)
        name = self._shares[corpus].name
        file = self._reader.readers[corpus].shard_name(number)
        return f"{name}/{file}", f"{name}/{sample_key(self._first_sample[corpus][number] + place)}"

    def close(self) -> None:
        super().close()
        self._reader.close()


def chosen(captions: list[str], rule: Captions) -> list[str]:
    """Returns the captions from which one is drawn: all, or the first, longest or shortest (the first of equally long ones)."""
    if rule == "random" or len(captions) < 2:
        return captions
    if rule == "first":
        return captions[:1]
    return [max(captions, key=len) if rule == "longest" else min(captions, key=len)]


class ImageTextStream(OrderedStream[ImageTextBatch[RawImages]]):
    """The stream over the corpus `data.shards` or the corpora of `data.mixture`; all randomness follows from `train.seed`.

    `sections` are those of the run's mixture so far; none at its start.

    Raises:
        DataError: the corpus is missing, damaged or empty.
        UserError: as `OrderedStream`.
    """

    def __init__(self, config: RunConfig, share: Share, sections: Sequence[Section] = ()) -> None:
        mixed = bool(config.data.mixture)
        dataset = _MixtureMicroBatches(config, share, sections) if mixed else _CorpusMicroBatches(config, share)
        super().__init__(dataset, config, share)

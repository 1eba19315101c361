"""The training stream over a corpus with a manifest, in a folder or an object store."""

from __future__ import annotations

from itertools import accumulate

from albef_ds.config.schema import RunConfig
from albef_ds.data.batch import ImageTextBatch
from albef_ds.data.images.view import RawImages
from albef_ds.data.shards.format import sample_key
from albef_ds.data.store.open import open_corpus
from albef_ds.data.store.reader import StoreReader
from albef_ds.data.stream.loader import Share
from albef_ds.data.stream.order import SampleOrder
from albef_ds.data.stream.ordered import MicroBatches, OrderedStream
from albef_ds.data.stream.prefetch import Prefetch
from albef_ds.data.stream.samples import Example, SampleBuilder, collate, read_text


class _CorpusMicroBatches(MicroBatches):
    def __init__(self, config: RunConfig, share: Share) -> None:
        self._reader = open_corpus(config.data.shards, config.data)
        super().__init__(SampleOrder.of(self._reader.counts, config), config.train.micro_batch_size)
        self._builder = SampleBuilder(config.training_data, config.model.vision.image_size, config.train.seed)
        self._first_sample = [0, *accumulate(self._reader.counts)]
        self._prefetch = Prefetch(self._reader, self.order, config, share) if isinstance(self._reader, StoreReader) else None

    def before(self, start: int) -> None:
        if self._prefetch is not None:
            self._prefetch.before(start)

    def sample(self, shard: int, row: int, position: int) -> Example:
        image, raw_meta = self._reader.read(shard, row)
        captions, image_id = read_text(raw_meta)
        return self._builder.build(image, captions, image_id, self.name(shard, row)[1], position)

    def name(self, shard: int, row: int) -> tuple[str, str]:
        return self._reader.shard_name(shard), sample_key(self._first_sample[shard] + row)

    def collate(self, samples: list[Example]) -> ImageTextBatch[RawImages]:
        return collate(samples)

    @property
    def num_cut(self) -> int:
        return self._builder.tokenizer.num_cut

    def close(self) -> None:
        if self._prefetch is not None:
            self._prefetch.close()
        self._reader.close()


class ImageTextStream(OrderedStream[ImageTextBatch[RawImages]]):
    """The stream over the corpus `data.shards`; all randomness follows from `train.seed`.

    Raises:
        DataError: the corpus is missing, damaged or empty.
        UserError: as `OrderedStream`.
    """

    def __init__(self, config: RunConfig, share: Share) -> None:
        super().__init__(_CorpusMicroBatches(config, share), config, share)

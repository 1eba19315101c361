"""The training stream over a corpus folder with a manifest."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

from torch.utils.data import Dataset

from albef_ds.common.errors import DataError, UserError
from albef_ds.config.schema import RunConfig
from albef_ds.data.batch import ImageTextBatch
from albef_ds.data.broken import BrokenSample, BrokenSampleError
from albef_ds.data.shards.format import sample_key
from albef_ds.data.shards.reader import ShardReader
from albef_ds.data.stream.loader import Delivery, Share
from albef_ds.data.stream.order import SampleOrder
from albef_ds.data.stream.ordered import SUBSTITUTES_TRIED, OrderedStream
from albef_ds.data.stream.samples import Example, SampleBuilder, collate, read_text


class _CorpusMicroBatches(Dataset[Delivery]):
    """Item p: the micro-batch of the positions from p on."""

    def __init__(self, config: RunConfig) -> None:
        self.reader = ShardReader(Path(config.data.shards))
        self.order = SampleOrder.of(self.reader.counts, config)
        self._builder = SampleBuilder(config.data, config.model.vision.image_size, config.train.seed)
        self._micro_batch_size = config.train.micro_batch_size
        self._first_sample = [0, *accumulate(self.reader.counts)]

    def __getitem__(self, start: int) -> Delivery:
        broken: list[BrokenSample] = []
        try:
            examples = [self._example(position, broken) for position in range(start, start + self._micro_batch_size)]
        except UserError as error:
            return Delivery(None, failure=str(error))
        return Delivery(collate(examples), broken)

    def close(self) -> None:
        """Close the open shards."""
        self.reader.close()

    def _example(self, position: int, broken: list[BrokenSample]) -> Example:
        """The example at `position`; if it is broken, the next good one in the order stands in, under its own position.

        Only the broken sample itself is counted: broken ones among the substitutes are counted at their own positions.
        """
        for place in range(position, position + SUBSTITUTES_TRIED):
            shard, row = self.order.locate(place)
            key = sample_key(self._first_sample[shard] + row)
            image, raw_meta = self.reader.read(shard, row)
            try:
                captions, image_id = read_text(raw_meta)
                return self._builder.build(image, captions, image_id, key, position)
            except BrokenSampleError as error:
                if place == position:
                    broken.append(BrokenSample(self.reader.shard_name(shard), key, error.reason))
        raise DataError(
            f"{SUBSTITUTES_TRIED} samples in a row are broken, such as {key} in {self.reader.shard_name(shard)}: "
            "run `albef-data verify` and write the corpus again without them"
        )


class ImageTextStream(OrderedStream[ImageTextBatch]):
    """The stream over the corpus folder `data.shards`; all that is drawn follows from `train.seed`.

    Raises:
        DataError: the corpus is missing, damaged or empty.
        UserError: as `OrderedStream`.
    """

    def __init__(self, config: RunConfig, share: Share) -> None:
        super().__init__(_CorpusMicroBatches(config), config, share)

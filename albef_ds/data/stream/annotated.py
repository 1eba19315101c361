"""Annotated samples as training batches: the fine-tuning tasks' counterpart of the corpus stream, under the same contract.

Which sample stands at a position, its crop, caption and masks are a function of (seed, position); any number of ranks,
workers and accumulation steps meets the same global batches. A picture that does not decode is counted and the next
sample of the order stands in. Missing pictures are counted before anything starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from albef_ds.common.errors import DataError, UserError
from albef_ds.config.schema import RunConfig
from albef_ds.data.annotations.json_files import split_paths
from albef_ds.data.annotations.pictures import Pictures, record_images
from albef_ds.data.annotations.read import read_records
from albef_ds.data.annotations.records import Record
from albef_ds.data.broken import BrokenSample, BrokenSampleError
from albef_ds.data.sample_kinds import SampleKind
from albef_ds.data.stream.builders import Builder
from albef_ds.data.stream.loader import Delivery, Share
from albef_ds.data.stream.order import SampleOrder
from albef_ds.data.stream.ordered import SUBSTITUTES_TRIED, OrderedStream


class AnnotatedMicroBatches(Dataset[Delivery]):
    """Item p: the micro-batch of the positions from p on."""

    def __init__(
        self, records: Sequence[Record], pictures: Pictures, builder: Builder, name: str, micro_batch_size: int, seed: int
    ) -> None:
        self.order = SampleOrder([len(records)], seed)
        self._records, self._pictures, self._builder = records, pictures, builder
        self._name, self._micro_batch_size = name, micro_batch_size

    def __getitem__(self, start: int) -> Delivery:
        broken: list[BrokenSample] = []
        try:
            samples = [self._sample(position, broken) for position in range(start, start + self._micro_batch_size)]
        except UserError as error:
            return Delivery(None, failure=str(error))
        return Delivery(self._builder.collate(samples), broken)

    def close(self) -> None:
        """Nothing stays open."""

    def _sample(self, position: int, broken: list[BrokenSample]) -> Any:
        for place in range(position, position + SUBSTITUTES_TRIED):
            record = self._records[self.order.locate(place)[1]]
            try:
                return self._builder.build(record, self._pictures.read(record), position)
            except BrokenSampleError as error:
                if place == position:
                    broken.append(BrokenSample(self._name, record_images(record)[0], error.reason))
        raise DataError(
            f"{SUBSTITUTES_TRIED} samples in a row of {self._name} are broken, such as {record_images(record)[0]}: "
            "look at these pictures"
        )


def annotated_stream(config: RunConfig, samples: SampleKind, share: Share) -> OrderedStream[Any]:
    """The stream over `config.data.annotations`, whose records are `samples`.

    Raises:
        UserError: a file that is missing or of another form, missing pictures, records that `samples` does not take, or as
            `OrderedStream`.
    """
    data, seed = config.data, config.train.seed
    records = read_records(samples.read, config, data.annotations)
    pictures = Pictures(data)
    pictures.require(records)
    samples.check(records, config)
    builder = samples.builder(data, config.model.vision.image_size, seed)
    name = ", ".join(path.name for path in split_paths(data.annotations))
    dataset = AnnotatedMicroBatches(records, pictures, builder, name, config.train.micro_batch_size, seed)
    return OrderedStream(dataset, config, share)

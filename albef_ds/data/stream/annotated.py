"""Annotated samples as training batches: the fine-tuning tasks' counterpart of the corpus stream, under the same contract.

Which sample stands at a position, its crop, caption and masks are a function of (seed, position); any number of ranks,
workers and accumulation steps meets the same global batches. A picture that does not decode is counted and the next
sample of the order stands in. Missing pictures are counted before anything starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from albef_ds.config.schema import RunConfig
from albef_ds.data.annotations.json_files import split_paths
from albef_ds.data.annotations.pictures import Pictures, record_images
from albef_ds.data.annotations.read import read_records
from albef_ds.data.annotations.records import Record
from albef_ds.data.batch import RawBatch
from albef_ds.data.sample_kinds import SampleKind
from albef_ds.data.stream.builders import Builder
from albef_ds.data.stream.loader import Share
from albef_ds.data.stream.order import SampleOrder
from albef_ds.data.stream.ordered import MicroBatches, OrderedStream


class _AnnotatedMicroBatches(MicroBatches):
    def __init__(self, records: Sequence[Record], pictures: Pictures, builder: Builder, files: str, config: RunConfig) -> None:
        super().__init__(SampleOrder([len(records)], config.train.seed), config.train.micro_batch_size)
        self._records, self._pictures, self._builder, self._files = records, pictures, builder, files

    def sample(self, shard: int, row: int, position: int) -> Any:
        return self._builder.build(self._records[row], self._pictures.read(self._records[row]), position)

    def name(self, shard: int, row: int) -> tuple[str, str]:
        return self._files, record_images(self._records[row])[0]

    def collate(self, samples: list[Any]) -> RawBatch:
        return self._builder.collate(samples)


def annotated_stream(config: RunConfig, samples: SampleKind, share: Share) -> OrderedStream[Any]:
    """The stream over `config.data.annotations`, whose records are `samples`.

    Raises:
        UserError: a file that is missing or of another form, missing pictures, records that `samples` does not take, or as
            `OrderedStream`.
    """
    data = config.data
    records = read_records(samples.read, config, data.annotations)
    pictures = Pictures(data)
    pictures.require(records)
    samples.check(records, config)
    builder = samples.builder(data, config.model.vision.image_size, config.train.seed)
    files = ", ".join(path.name for path in split_paths(data.annotations))
    return OrderedStream(_AnnotatedMicroBatches(records, pictures, builder, files, config), config, share)

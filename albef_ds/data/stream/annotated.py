"""The training stream over annotated samples, for fine-tuning, with the same guarantees as the corpus stream (`ordered.py`).

An image that cannot be decoded is counted, and the next sample of the order is used instead. Missing image files are reported
before anything starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from albef_ds.config.schema import RunConfig
from albef_ds.data.annotations.image_files import ImageFiles, record_images
from albef_ds.data.annotations.json_files import split_paths
from albef_ds.data.annotations.read import read_records
from albef_ds.data.annotations.records import Record
from albef_ds.data.batch import RawBatch
from albef_ds.data.sample_kinds import SampleKind
from albef_ds.data.stream.builders import Builder
from albef_ds.data.stream.loader import Share
from albef_ds.data.stream.order import SampleOrder
from albef_ds.data.stream.ordered import MicroBatches, OrderedStream


class _AnnotatedMicroBatches(MicroBatches):
    def __init__(self, records: Sequence[Record], images: ImageFiles, builder: Builder, files: str, config: RunConfig) -> None:
        super().__init__(SampleOrder([len(records)], config.train.seed), config.train.micro_batch_size)
        self._records, self._image_files, self._builder, self._files = records, images, builder, files

    def sample(self, shard: int, row: int, position: int) -> Any:
        return self._builder.build(self._records[row], self._image_files.read(self._records[row]), position)

    def name(self, shard: int, row: int) -> tuple[str, str]:
        return self._files, record_images(self._records[row])[0]

    def collate(self, samples: list[Any]) -> RawBatch:
        return self._builder.collate(samples)

    @property
    def num_cut(self) -> int:
        return getattr(self._builder, "num_cut", 0)  # a task of a user may bring a builder without it


def annotated_stream(config: RunConfig, samples: SampleKind, share: Share) -> OrderedStream[Any]:
    """Returns the stream over the `samples` in `config.data.annotations`.

    Raises:
        UserError: a file is missing or of another format, images are missing, `samples.check` rejects the records, or as
            `OrderedStream`.
    """
    data = config.training_data
    records = read_records(samples.read, config, data.annotations)
    image_files = ImageFiles(data)
    image_files.require(records)
    samples.check(records, config)
    builder = samples.builder(data, config.model.vision.image_size, config.train.seed)
    files = ", ".join(path.name for path in split_paths(data.annotations))
    return OrderedStream(_AnnotatedMicroBatches(records, image_files, builder, files, config), config, share)

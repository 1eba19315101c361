"""The training stream: every rank's micro-batches of one fixed sequence of samples.

Global batch g is positions [g * G, (g + 1) * G) of the order (`albef_ds.data.order`), where G is the global batch size.
Rank r of N takes the r-th of N equal slices and cuts it into micro-batches in order. A global batch thus holds the
same samples, with the same crops, captions and masks, for every number of ranks, workers and accumulation steps: to
resume anywhere, start at the position where the last finished global batch ended. An epoch's last incomplete global
batch runs on into the next epoch; nothing is dropped or repeated.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from torch.utils.data import Dataset, Sampler

from albef_ds.config.schema import DataConfig, RunConfig
from albef_ds.data.broken import BrokenSample, BrokenSampleError, BrokenTally
from albef_ds.data.loader import Delivery, deliveries, open_delivery
from albef_ds.data.order import SampleOrder
from albef_ds.data.samples import Example, SampleBuilder, collate, read_text
from albef_ds.data.shards import ShardReader
from albef_ds.errors import ConfigError
from albef_ds.shard_format import sample_key
from albef_ds.types import Batch, ImageTextBatch

SUBSTITUTES_TRIED = 100
"""Samples in a row that may be broken before the stream gives up on finding a substitute."""


NEED_ANNOTATIONS = ("classification", "vqa")
"""Kinds of tasks that a corpus of captions cannot train."""

B_co = TypeVar("B_co", bound=Batch, covariant=True)


class Stream(Protocol[B_co]):
    """What the trainer needs of a stream."""

    @property
    def num_samples(self) -> int | None:
        """Samples of one epoch over all ranks; None if unknown, then the run needs train.max_steps or max_minutes."""

    def __iter__(self) -> Iterator[B_co]:
        """This rank's micro-batches, without end."""

    def broken_counts(self) -> dict[str, dict[str, int]]:
        """This rank's broken samples so far: shard to reason to count."""

    def close(self) -> None:
        """End the loader processes."""


class MicroBatches(Protocol[B_co]):
    """What a stream draws from: item p is the micro-batch of the positions from p on. Picklable, for spawned workers."""

    order: SampleOrder

    def __getitem__(self, start: int) -> Delivery:
        """The micro-batch of the positions from `start` on."""

    def close(self) -> None:
        """Close open files."""


class OrderedStream(Generic[B_co]):
    """The stream over samples in a `SampleOrder`. Iterate once; make another to start elsewhere.

    Args:
        dataset: what the samples are.
        config: the data section.
        micro_batch_size, global_batch_size: samples per batch of this rank, and per optimizer step over all ranks.
        rank, world_size: this process among all.
        start_position: position of the first sample of the first global batch (the run's samples so far).
        pin_memory: put batches into page-locked memory.
        start_method: of loader processes (`fork`, `spawn`, `forkserver`); None: the platform's.

    Raises:
        ConfigError: the batch sizes do not fit together; while iterating, what cannot be read, or more broken samples
            than `config.max_broken`.
    """

    def __init__(
        self,
        dataset: MicroBatches[B_co],
        config: DataConfig,
        *,
        micro_batch_size: int,
        global_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        start_position: int = 0,
        pin_memory: bool = False,
        start_method: str | None = None,
    ) -> None:
        if global_batch_size % (micro_batch_size * world_size):
            raise ConfigError(
                f"train.global_batch_size {global_batch_size} is not a multiple of train.micro_batch_size {micro_batch_size} x "
                f"{world_size} ranks: change one of them"
            )
        self._dataset = dataset
        self._sampler = _MicroBatchStarts(micro_batch_size, global_batch_size, rank, world_size, start_position)
        self._config, self._pin_memory, self._start_method = config, pin_memory, start_method
        self._tally = BrokenTally(config.max_broken)
        self._source: Generator[Delivery, None, None] | None = None

    @property
    def num_samples(self) -> int:
        """Samples of one epoch over all ranks."""
        return self._dataset.order.num_samples

    def __iter__(self) -> Iterator[B_co]:
        self.close()
        source = deliveries(
            self._dataset,
            self._config,
            sampler=self._sampler,
            pin_memory=self._pin_memory,
            start_method=self._start_method,
        )
        self._source = source
        epoch = self._sampler.start // self.num_samples
        for delivery in source:
            batch: B_co = open_delivery(delivery, self._tally)
            last = int(batch.positions[-1])
            if (last + 1) // self.num_samples != epoch:  # a small corpus is judged after its epoch, however few samples
                epoch = (last + 1) // self.num_samples
                self._tally.judge()
            yield batch

    def broken_counts(self) -> dict[str, dict[str, int]]:
        """This rank's broken samples so far: shard to reason to count."""
        return self._tally.as_dict()

    def close(self) -> None:
        """End the loader processes; iterating again begins at `start_position`."""
        if self._source is not None:
            self._source.close()
            self._source = None
        self._dataset.close()


class _MicroBatchStarts(Sampler[int]):
    """First positions of one rank's micro-batches."""

    def __init__(self, micro: int, total: int, rank: int, world_size: int, start: int) -> None:
        self.start = start
        self._micro, self._total = micro, total
        self._first, self._share = rank * (total // world_size), total // world_size

    def __iter__(self) -> Iterator[int]:
        batch = self.start
        while True:
            first = batch + self._first
            yield from range(first, first + self._share, self._micro)
            batch += self._total


class _CorpusMicroBatches(Dataset[Delivery]):
    """Item p: the micro-batch of the positions from p on."""

    def __init__(self, config: DataConfig, image_size: int, seed: int, micro_batch_size: int) -> None:
        self.reader = ShardReader(Path(config.shards))
        self.order = SampleOrder(self.reader.counts, seed, group_size=config.group_size)
        self._builder = SampleBuilder(config, image_size, seed)
        self._micro_batch_size = micro_batch_size
        self._first_sample = [0, *accumulate(self.reader.counts)]

    def __getitem__(self, start: int) -> Delivery:
        broken: list[BrokenSample] = []
        try:
            examples = [self._example(position, broken) for position in range(start, start + self._micro_batch_size)]
        except ConfigError as error:
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
        raise ConfigError(
            f"{SUBSTITUTES_TRIED} samples in a row are broken, such as {key} in {self.reader.shard_name(shard)}: "
            "run `albef-data verify` and write the corpus again without them"
        )


class ImageTextStream(OrderedStream[ImageTextBatch]):
    """The stream over a corpus folder with a manifest.

    Args:
        config: the data section; `config.shards` is the folder.
        seed: of order, captions, crops and masks.
        image_size: side of the images in pixels.
        micro_batch_size: samples per batch of this rank.
        settings: the rest of what `OrderedStream` takes.

    Raises:
        ConfigError: the corpus is missing, damaged or empty, or as `OrderedStream`.
    """

    def __init__(self, config: DataConfig, *, seed: int, image_size: int, micro_batch_size: int, **settings: Any) -> None:
        dataset = _CorpusMicroBatches(config, image_size, seed, micro_batch_size)
        super().__init__(dataset, config, micro_batch_size=micro_batch_size, **settings)


def open_stream(
    config: RunConfig, *, rank: int = 0, world_size: int = 1, start_position: int = 0, pin_memory: bool = False
) -> Stream[Batch]:
    """The stream that `config.data` asks for: annotation files, a corpus folder, or plain tars with the weaker guarantee.

    Raises:
        ConfigError: nothing is named, it does not exist or holds nothing for the task, or as `OrderedStream` and
            `WebDatasetStream`.
    """
    shards = config.data.shards
    if config.data.annotations:
        from albef_ds.data.annotated import annotated_stream  # here: that module is built on this one

        return annotated_stream(config, rank=rank, world_size=world_size, start_position=start_position, pin_memory=pin_memory)
    if config.task.kind in NEED_ANNOTATIONS:
        raise ConfigError(f"data.annotations is empty: task.kind={config.task.kind} is trained on annotation files, name them")
    if not shards:
        raise ConfigError("data.shards is empty: give a folder written by `albef-data shard`, or tars")
    config.accumulation_steps(world_size)
    settings: dict[str, Any] = {
        "seed": config.train.seed,
        "image_size": config.model.vision.image_size,
        "micro_batch_size": config.train.micro_batch_size,
        "rank": rank,
        "world_size": world_size,
        "start_position": start_position,
        "pin_memory": pin_memory,
    }
    if is_corpus(shards):
        return ImageTextStream(config.data, global_batch_size=config.train.global_batch_size, **settings)
    from albef_ds.data.webdataset_stream import WebDatasetStream  # here: only plain tars need the library

    return WebDatasetStream(config.data, **settings)


def is_corpus(shards: str) -> bool:
    """Whether `shards` names a corpus folder rather than tars: what looks like neither is taken for a missing folder."""
    return Path(shards).is_dir() or not any(mark in shards for mark in (".tar", "{", ":"))

"""The training stream: every rank's micro-batches of one fixed sequence of samples.

Global batch g is positions [g * G, (g + 1) * G) of the order (`albef_ds.data.stream.order`), where G is the global batch size.
Rank r of N takes the r-th of N equal slices and cuts it into micro-batches in order. A global batch thus holds the
same samples, with the same crops, captions and masks, for every number of ranks, workers and accumulation steps: to
resume anywhere, start at the position where the last finished global batch ended. An epoch's last incomplete global
batch runs on into the next epoch; nothing is dropped or repeated.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Generic, Protocol, TypeVar

from torch.utils.data import Sampler

from albef_ds.common.errors import ConfigError
from albef_ds.config.schema import DataConfig
from albef_ds.data.batch import Batch
from albef_ds.data.broken import BrokenTally
from albef_ds.data.stream.loader import Delivery, deliveries, open_delivery
from albef_ds.data.stream.order import SampleOrder

B_co = TypeVar("B_co", bound=Batch, covariant=True)


SUBSTITUTES_TRIED = 100
"""Samples in a row that may be broken before the stream gives up on finding a substitute."""


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
        UserError: the batch sizes do not fit together; while iterating, what cannot be read, or more broken samples
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

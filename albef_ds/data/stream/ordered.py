"""The training stream: every rank's micro-batches of one fixed sequence of samples.

Global batch g has the positions [g * G, (g + 1) * G) of the order (`albef_ds.data.stream.order`); G is the global batch size.
Rank r of N takes the r-th of N equal slices and splits it into micro-batches in order. A global batch thus has the same samples,
with the same crops, captions and masks, for every number of ranks, workers and accumulation steps. A run resumes at the position
where its last global batch ended. An epoch's last incomplete global batch is completed from the next epoch; nothing is dropped or
repeated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol

from torch.utils.data import Dataset, Sampler

from albef_ds.common.errors import DataError, UserError
from albef_ds.config.schema import RunConfig
from albef_ds.data.batch import RawBatch
from albef_ds.data.broken import BrokenSample, BrokenSampleError
from albef_ds.data.stream.loader import B_co, Delivery, LoaderStream, Share
from albef_ds.data.stream.mixed_order import MixedOrder
from albef_ds.data.stream.order import SampleOrder

SUBSTITUTES_TRIED = 100
"""Number of consecutive broken samples after which the stream stops looking for a substitute."""


class Stream(Protocol[B_co]):
    """The interface of a stream for the trainer."""

    @property
    def num_samples(self) -> int | None:
        """Samples of one epoch over all ranks; None if unknown: the run then needs train.max_steps or train.max_minutes."""

    def __iter__(self) -> Iterator[B_co]:
        """Yields this rank's micro-batches, endlessly."""

    def broken_counts(self) -> dict[str, dict[str, int]]:
        """Returns this rank's broken samples so far: shard to reason to count."""

    def num_cut(self) -> int:
        """Returns how many of this rank's texts were longer than the limits of words and tokens."""

    @property
    def sections(self) -> list[tuple[int, dict[str, int]]]:
        """Sections of the mixture: first position, and quotas by name; none without one."""

    def shares(self, start: int, end: int) -> dict[str, float]:
        """Returns the share of each corpus of a mixture in the positions [`start`, `end`), by name; empty without one."""

    def close(self) -> None:
        """Ends the loader processes."""


class MicroBatches(Dataset[Delivery], ABC):
    """The dataset of a stream: item p is the micro-batch of the positions from p on. Picklable, for spawned workers.

    A broken sample is counted and replaced by the next good one in the order, built for the broken one's position. Broken
    samples among the substitutes are counted at their own positions.
    """

    def __init__(self, order: SampleOrder | MixedOrder, micro_batch_size: int) -> None:
        self.order = order
        self._micro_batch_size = micro_batch_size

    def __getitem__(self, start: int) -> Delivery:
        self.before(start)
        broken: list[BrokenSample] = []
        cut_before = self.num_cut
        try:
            samples = [self._at(position, broken) for position in range(start, start + self._micro_batch_size)]
        except UserError as error:
            return Delivery(None, failure=str(error))
        return Delivery(self.collate(samples), broken, num_cut=self.num_cut - cut_before)

    def _at(self, position: int, broken: list[BrokenSample]) -> Any:
        for place in range(position, position + SUBSTITUTES_TRIED):
            shard, row = self.order.locate(place)
            try:
                return self.sample(shard, row, position)
            except BrokenSampleError as error:
                name, key = self.name(shard, row)
                if place == position:
                    broken.append(BrokenSample(name, key, error.reason))
        raise DataError(
            f"{SUBSTITUTES_TRIED} samples in a row are broken, such as {key} in {name}: "
            "check them, and write the data again without them (`albef-data verify` checks a corpus)"
        )

    def before(self, start: int) -> None:
        """Prepares the micro-batch of the positions from `start` on, and those after it."""

    @property
    def num_cut(self) -> int:
        """Texts that this process has cut so far."""
        return 0

    @abstractmethod
    def sample(self, shard: int, row: int, position: int) -> Any:
        """Returns sample `row` of `shard`, with random parts drawn for `position`. Raises `BrokenSampleError`."""

    @abstractmethod
    def name(self, shard: int, row: int) -> tuple[str, str]:
        """Returns the file that holds the sample, and its key there."""

    @abstractmethod
    def collate(self, samples: list[Any]) -> RawBatch:
        """Returns `samples` as one batch."""

    def close(self) -> None:
        """Closes open files."""


class OrderedStream(LoaderStream[B_co]):
    """The stream over samples in a `SampleOrder`. Iterate once; make a new one to start at another position.

    Args:
        dataset: the samples.
        config: the run's settings.
        share: this process's share, and the start position.

    Raises:
        UserError: as `LoaderStream`.
    """

    def __init__(self, dataset: MicroBatches, config: RunConfig, share: Share) -> None:
        super().__init__(dataset, config, share, MicroBatchStarts.of(config, share))

    @property
    def num_samples(self) -> int:
        """Samples of one epoch over all ranks."""
        order: SampleOrder | MixedOrder = self._dataset.order
        return order.num_samples

    @property
    def sections(self) -> list[tuple[int, dict[str, int]]]:
        """Sections of the mixture, the last of which is read from its first position on; none without one."""
        order: SampleOrder | MixedOrder = self._dataset.order
        return order.sections if isinstance(order, MixedOrder) else []

    def shares(self, start: int, end: int) -> dict[str, float]:
        order: SampleOrder | MixedOrder = self._dataset.order
        return order.shares(start, end) if isinstance(order, MixedOrder) else {}

    def __iter__(self) -> Iterator[B_co]:
        epoch = self._share.start_position // self.num_samples
        for batch in super().__iter__():
            last = int(batch.positions[-1])
            if (last + 1) // self.num_samples != epoch:  # a corpus with few samples is checked after each epoch
                epoch = (last + 1) // self.num_samples
                self._tally.judge()
            yield batch

    def close(self) -> None:
        """Ends the loader processes and closes open files."""
        super().close()
        self._dataset.close()


class MicroBatchStarts(Sampler[int]):
    """Yields the first positions of one rank's micro-batches, endlessly."""

    def __init__(self, micro: int, total: int, share: Share) -> None:
        self._start, self._micro, self._total = share.start_position, micro, total
        self._size = total // share.world_size
        self._first = share.rank * self._size

    @classmethod
    def of(cls, config: RunConfig, share: Share) -> MicroBatchStarts:
        """Returns the starts of a run's micro-batches on one rank."""
        return cls(config.train.micro_batch_size, config.train.global_batch_size, share)

    def following(self, start: int, number: int) -> int:
        """Returns the first position of the micro-batch that is `number` after the one at `start`."""
        batches, within = divmod(start - self._start, self._total)
        per_batch = self._size // self._micro
        later = batches * per_batch + (within - self._first) // self._micro + number
        return self._start + later // per_batch * self._total + self._first + later % per_batch * self._micro

    def __iter__(self) -> Iterator[int]:
        batch = self._start
        while True:
            first = batch + self._first
            yield from range(first, first + self._size, self._micro)
            batch += self._total

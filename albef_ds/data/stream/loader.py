"""Loader processes: torch's DataLoader over micro-batches, which returns errors and broken samples as values."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader

from albef_ds.common.errors import DataError
from albef_ds.common.processes import STOP_SIGNALS
from albef_ds.config.schema import DataConfig, RunConfig
from albef_ds.data.batch import RawBatch
from albef_ds.data.broken import BrokenSample, BrokenTally
from albef_ds.data.images import gpu_jpeg
from albef_ds.data.stream.allocator import keep_freed_memory

B_co = TypeVar("B_co", bound=RawBatch, covariant=True)


@dataclass(frozen=True)
class Share:
    """One process's share of a stream, and the settings of its loader."""

    rank: int = 0
    world_size: int = 1
    start_position: int = 0
    """Position of the first sample of the first global batch, the number of samples that the run has already taken."""
    pin_memory: bool = False
    """True to put batches into page-locked memory."""
    start_method: str | None = None
    """Start method of loader processes (`fork`, `spawn`, `forkserver`); None: the platform's default."""


@dataclass(frozen=True)
class Delivery:
    """A worker's result for one micro-batch: the batch, or the text of a `UserError`.

    An exception would reach the trainer with the worker's traceback instead of as one line.
    """

    batch: RawBatch | None
    broken: list[BrokenSample] = field(default_factory=list)
    failure: str = ""
    num_cut: int = 0
    """Texts that were longer than the limits of words and tokens."""

    def pin_memory(self) -> Delivery:
        """Returns the delivery with its batch in page-locked memory (called by the loader)."""
        return self if self.batch is None else replace(self, batch=self.batch.pin_memory())


def start_worker(worker_id: int) -> None:
    """Prepares a worker: it ignores stop signals, keeps freed memory and exits without Python's clean-up.

    The training process handles Ctrl-C and a cluster's warning signals, and ends its workers. Python's clean-up in a spawned
    process would end the thread that delivers batches inside torch's C++, which aborts. The exit status is always 0: errors
    reach the training process as items, and it detects a worker that died.
    """
    keep_freed_memory()
    atexit.register(os._exit, 0)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def deliveries(
    dataset: Any, config: DataConfig, *, sampler: Iterable[Any] | None, pin_memory: bool, start_method: str | None
) -> Generator[Delivery, None, None]:
    """Yields the items of `dataset`, one `Delivery` each, from `config.num_workers` processes in the sampler's order.

    Raises:
        UserError: JPEGs are to be decoded on a GPU and there is none.
    """
    gpu_jpeg.check(config.jpeg_device)
    workers = config.num_workers
    if start_method is None and config.jpeg_device == "cuda":
        start_method = "spawn"  # a forked process cannot use its parent's GPU
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        collate_fn=_identity,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
        prefetch_factor=config.prefetch if workers else None,
        multiprocessing_context=multiprocessing.get_context(start_method) if workers else None,
        # Drawing the workers' base seed from the global generator would change a resumed run's dropout.
        generator=torch.Generator(),
    )
    yield from loader  # closing this generator deletes the loader's iterator, which ends its processes


def open_delivery(delivery: Delivery, tally: BrokenTally) -> Any:
    """Returns the batch of `delivery` and counts its broken samples.

    Raises:
        DataError: the worker's error, or the tally is above its limit.
    """
    if delivery.batch is None:
        raise DataError(delivery.failure)
    tally.add(len(delivery.batch), delivery.broken)
    return delivery.batch


class LoaderStream(Generic[B_co]):
    """Micro-batches of `dataset` from loader processes, in the order of `sampler` (None: the dataset's own).

    Raises:
        ConfigError: the batch sizes do not divide.
        UserError: while iterating: a file cannot be read, or the share of broken samples is above `data.max_broken`.
    """

    def __init__(self, dataset: Any, config: RunConfig, share: Share, sampler: Iterable[Any] | None = None) -> None:
        config.accumulation_steps(share.world_size)
        self._dataset, self._config, self._share, self._sampler = dataset, config.data, share, sampler
        self._tally = BrokenTally(config.data.max_broken)
        self._num_cut = 0
        self._source: Generator[Delivery, None, None] | None = None

    def __iter__(self) -> Iterator[B_co]:
        self.close()
        share = self._share
        source = self._source = deliveries(
            self._dataset, self._config, sampler=self._sampler, pin_memory=share.pin_memory, start_method=share.start_method
        )
        for delivery in source:
            self._num_cut += delivery.num_cut
            yield open_delivery(delivery, self._tally)

    def broken_counts(self) -> dict[str, dict[str, int]]:
        """Returns this rank's broken samples so far: shard to reason to count."""
        return self._tally.as_dict()

    def num_cut(self) -> int:
        """Returns how many of this rank's texts were longer than the limits of words and tokens."""
        return self._num_cut

    @property
    def sections(self) -> list[tuple[int, dict[str, int]]]:
        """Sections of a mixture; none without one."""
        return []

    def shares(self, start: int, end: int) -> dict[str, float]:
        """Returns the share of each corpus of a mixture in the positions [`start`, `end`), by name; empty without one."""
        return {}

    def close(self) -> None:
        """Ends the loader processes; iterating again starts at `start_position`."""
        if self._source is not None:
            self._source.close()
            self._source = None


def _identity(item: Any) -> Any:
    return item

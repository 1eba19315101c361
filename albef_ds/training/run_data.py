"""Loads the micro-batches of a run on one rank, starting at the run's position in its data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from albef_ds.checkpoint.training_progress import TrainingProgress
from albef_ds.common import comm
from albef_ds.common.errors import ConfigError
from albef_ds.config.schema import RunConfig
from albef_ds.data.batch import Batch, RawBatch
from albef_ds.data.stream.mixed_order import BLOCK, Section
from albef_ds.data.stream.open import open_stream
from albef_ds.data.stream.ordered import Stream
from albef_ds.tasks.registry import kind_of


class RunData:
    """Opens the stream of the run at `progress.samples`, and again when the run jumps to other samples.

    Raises:
        ConfigError: the stream cannot be opened, or neither it nor the settings determine the end of the run.
    """

    def __init__(self, config: RunConfig, progress: TrainingProgress, device: torch.device) -> None:
        self.accumulation = config.accumulation_steps(comm.world_size())
        self._config, self._progress, self._device = config, progress, device
        self._shared_until = progress.samples
        before = progress.mixture
        self._stream, self._batches = self._open()
        self.news = _changed(before, progress.mixture)
        """What the log says of the mixture: its shares if they are new."""
        if progress.num_samples is None and not (config.train.max_steps or config.train.max_minutes):
            raise ConfigError("data.shards has no manifest, so its length is unknown: set train.max_steps or train.max_minutes")

    def next_step(self) -> list[Batch]:
        """Returns the micro-batches of the next step on the device, skipping samples that a rollback has excluded."""
        if self._progress.jump():
            self.reopen()
        return [next(self._batches).to(self._device) for _ in range(self.accumulation)]

    def reopen(self) -> None:
        """Continues from `progress.samples`."""
        self.close()
        self._stream, self._batches = self._open()

    def num_broken(self) -> int:
        """Returns the number of broken samples that this rank replaced by others."""
        return sum(sum(reasons.values()) for reasons in self._stream.broken_counts().values())

    def num_cut(self) -> int:
        """Returns how many of this rank's texts were longer than the limits of words and tokens."""
        return self._stream.num_cut()

    def shares(self) -> dict[str, float]:
        """Returns the share of each corpus of a mixture in the samples since the last call, as `share_NAME`."""
        start, self._shared_until = self._shared_until, self._progress.samples
        shares = self._stream.shares(min(start, self._shared_until), self._shared_until)
        return {f"share_{name}": share for name, share in shares.items()}

    def close(self) -> None:
        """Ends the loader processes."""
        self._stream.close()

    def _open(self) -> tuple[Stream[RawBatch], Iterator[RawBatch]]:
        stream = open_stream(
            self._config,
            kind_of(self._config.task).samples,
            rank=comm.rank(),
            world_size=comm.world_size(),
            start_position=self._progress.samples,
            pin_memory=self._device.type == "cuda",
            sections=self._progress.mixture,
        )
        self._progress.mixture = stream.sections
        self._progress.num_samples = stream.num_samples
        return stream, iter(stream)


def _changed(before: Sequence[Section], now: Sequence[Section]) -> list[str]:
    """Returns the line about a mixture that is new, or that has other quotas than before."""
    if not now or list(before) == list(now):
        return []
    start, quotas = now[-1]
    shares = ", ".join(f"{name} {quota / BLOCK:.1%}" for name, quota in quotas.items())
    return [f"data.mixture: {shares} of the samples" + (f", from sample {start:,} on" if before else "")]

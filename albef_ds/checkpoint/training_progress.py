"""Progress of a run: steps, samples, epochs, and the share of its planned length, which schedules follow."""

from __future__ import annotations

from dataclasses import dataclass, field

from albef_ds.config.schema import TrainConfig


@dataclass
class TrainingProgress:
    """Position of a run. Lengths are in samples; a wall-clock budget becomes the share of it that has passed."""

    config: TrainConfig
    num_samples: int | None = None
    """Samples of one epoch; None for a stream of unknown length."""
    step: int = 0
    samples: int = 0
    """Position in the data: samples drawn, or skipped after a rollback."""
    seconds: float = 0.0
    """Training time so far, without interruptions."""
    skipped_samples: int = 0
    """The part of `samples` without effect on the weights: in skipped steps and in `holes`."""
    holes: list[tuple[int, int]] = field(default_factory=list)
    """Positions [start, end) to skip: the samples with bad numbers before a rollback."""
    mixture: list[tuple[int, dict[str, int]]] = field(default_factory=list)
    """Sections of `data.mixture`: first position and quotas. One begins where a run starts, or resumes with other quotas."""

    @property
    def learned_samples(self) -> int:
        """Samples that changed the weights; schedules follow this, the data stream follows `samples`."""
        return self.samples - self.skipped_samples

    @property
    def learned_epoch(self) -> float:
        """`learned_samples` in passes over the data."""
        return self.learned_samples / self.num_samples if self.num_samples else 0.0

    def advance(self, skipped: bool) -> None:
        """Counts one step."""
        self.step += 1
        self.samples += self.config.global_batch_size
        if skipped:
            self.skipped_samples += self.config.global_batch_size

    def jump(self) -> bool:
        """Skips the hole at the current position; returns False if there is none."""
        end = max((end for start, end in self.holes if start <= self.samples < end), default=None)
        if end is None:
            return False
        self.skipped_samples += end - self.samples
        self.samples = end
        return True

    def go_back(self, earlier: TrainingProgress, hole: tuple[int, int]) -> None:
        """Returns to the position of `earlier` and adds a hole; keeps the training time."""
        self.step, self.samples, self.skipped_samples = earlier.step, earlier.samples, earlier.skipped_samples
        self.holes = [*self.holes, hole]

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        return self.samples / self.num_samples if self.num_samples else 0.0

    @property
    def total_steps(self) -> int | None:
        """The last step, if known; a wall-clock budget may end the run earlier."""
        limits = []
        if self.config.max_steps:
            limits.append(self.config.max_steps)
        if self.num_samples and self.config.epochs:
            limits.append(-(-int(self.config.epochs * self.num_samples) // self.config.global_batch_size))
        return max(1, min(limits)) if limits else None

    @property
    def share(self) -> float:
        """Finished share of the planned length, 0 to 1: by steps or by the clock, whichever is larger."""
        shares = [0.0]
        if self.total_steps:
            shares.append(self.step / self.total_steps)
        if self.config.max_minutes:
            shares.append(self.seconds / (60.0 * self.config.max_minutes))
        return min(1.0, max(shares))

    @property
    def total_samples(self) -> float:
        """Planned samples of the run, for the schedules; an estimate under a wall-clock budget."""
        if self.config.max_minutes and self.samples and self.share > 0.0:
            return self.samples / self.share
        return float((self.total_steps or 1) * self.config.global_batch_size)

    @property
    def done(self) -> bool:
        """True if the planned length is reached."""
        return self.share >= 1.0

"""Profiles the steps of `train.profile_steps` on rank 0: a trace of torch.profiler and, on a GPU, a snapshot of its memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from albef_ds.common import comm
from albef_ds.common.run_files import PROFILE_FOLDER

_EVENTS = 200_000
"""Allocations that the snapshot of memory remembers."""


class StepProfile:
    """Profiles from before step A to after step B of `steps`, (A, B); None profiles nothing.

    Files are `RUN/profile/steps-A-B.trace.json.gz`, for ui.perfetto.dev, and `steps-A-B.memory.pickle`, for
    docs.pytorch.org/memory_viz; `say` prints their names.
    """

    def __init__(self, steps: tuple[int, int] | None, output: Path, device: torch.device, say: Callable[[str], None]) -> None:
        self._steps = steps if comm.rank() == 0 else None
        self._folder, self._device, self._say = output / PROFILE_FOLDER, device, say
        self._profiler: torch.profiler.profile | None = None
        self._written = False

    def before_step(self, number: int) -> None:
        """Starts the profile before step `number` if it is A, or later in a run that was resumed after A."""
        if self._steps is None or self._profiler is not None or self._written or not self._steps[0] <= number <= self._steps[1]:
            return
        self._first = number
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if self._device.type == "cuda":
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
            torch.cuda.memory._record_memory_history(max_entries=_EVENTS)
        self._profiler = torch.profiler.profile(activities=kinds, record_shapes=True)
        self._profiler.start()

    def after_step(self, number: int) -> None:
        """Writes the files after step B."""
        if self._steps is not None and self._profiler is not None and number >= self._steps[1]:
            self._write(number)

    def at_end(self, number: int) -> None:
        """Writes what there is if the run ends before step B, and says so if no step was profiled."""
        if self._profiler is not None:
            self._write(number)
        elif self._steps is not None and not self._written:
            first, last = self._steps
            self._say(f"train.profile_steps={first}:{last} profiled nothing: the last step was {number}")

    def _write(self, last: int) -> None:
        assert self._profiler is not None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._profiler.stop()
        stem, profiler = self._folder / f"steps-{self._first}-{last}", self._profiler
        self._profiler, self._written = None, True
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            names = [f"{stem}.trace.json.gz"]
            profiler.export_chrome_trace(names[0])
            if self._device.type == "cuda":
                names.append(f"{stem}.memory.pickle")
                torch.cuda.memory._dump_snapshot(names[1])  # type: ignore[no-untyped-call]
                torch.cuda.memory._record_memory_history(enabled=None)
            self._say(f"profile of steps {self._first} to {last}: {', '.join(names)}")
        except (OSError, RuntimeError) as error:  # a full disk must not end the run
            self._say(f"the profile of steps {self._first} to {last} cannot be written: {error}")

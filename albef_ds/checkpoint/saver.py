"""Writes checkpoints while training continues.

    start     all ranks: copy the state to the CPU; each file is written in threads (`writer.py`) as soon as it is copied
    finish    all ranks, after every thread is done: rank 0 writes the marker, renames the folder, deletes old ones

The folder has a temporary name until it is complete, so a run that dies at any moment leaves earlier checkpoints intact. A
failed save is reported, and the run continues.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from albef_ds.checkpoint.complete import write_marker
from albef_ds.checkpoint.memory import SaveMemory
from albef_ds.checkpoint.remote import Uploads
from albef_ds.checkpoint.retention import record_scores, tidy
from albef_ds.checkpoint.snapshot import Window, snapshot_bytes, take_snapshot
from albef_ds.checkpoint.tensor_files.hashed import Entry
from albef_ds.checkpoint.training_progress import TrainingProgress
from albef_ds.checkpoint.writer import Writer
from albef_ds.common import comm
from albef_ds.common.run_files import CHECKPOINTS_FOLDER, STEP_PREFIX, complete_steps, step_folder
from albef_ds.config.schema import RunConfig
from albef_ds.engine.interface import Engine
from albef_ds.tasks.base import Task

_REPLACED = ".replaced.tmp"
_ADVICE = {
    errno.ENOSPC: "free some space there, or lower train.keep_last",
    errno.EDQUOT: "the quota is used up: delete something, or lower train.keep_last",
    errno.EROFS: "the file system has become read-only: have it mounted for writing again",
    errno.EACCES: "give this user the right to write there",
    errno.ENOENT: "the folder has vanished: mount it again",
    errno.ESTALE: "the file server has lost the folder: mount it again",
}


@dataclass(frozen=True)
class SaveResult:
    """The result of a save, equal on every rank."""

    step: int
    folder: Path
    error: str = ""
    """The problem and its fix; empty: the checkpoint is complete."""


class Saver:
    """Saves the checkpoints of the run in folder `output`, one save at a time. All ranks call every method together."""

    def __init__(self, output: Path, config: RunConfig) -> None:
        self.root = output / CHECKPOINTS_FOLDER
        self.config = config
        self.saved_step: int | None = None
        """Step of the newest checkpoint that this run has written or resumed from."""
        self._writing: tuple[int, Writer] | None = None
        self._memory = SaveMemory()
        self.uploads = Uploads(self.root, config.train) if config.train.checkpoint_store else None
        """Copies the checkpoints to `train.checkpoint_store`; None without it."""

    def prepare(self, task: Task) -> None:
        """Takes the memory for the copies of the first save while training goes on; later saves use it again.

        Without `train.save_in_background` nothing is kept between saves.
        """
        if self.config.train.save_in_background:
            self._memory.prepare(snapshot_bytes(task))

    def clean(self) -> None:
        """Removes the leftovers of a run killed while saving; restores a checkpoint that it was replacing."""
        if comm.rank() == 0:
            for leftover in self.root.glob(f"{STEP_PREFIX}*.tmp"):
                original = leftover.with_name(leftover.name.removesuffix(_REPLACED))
                if leftover.name.endswith(_REPLACED) and not original.exists():
                    os.replace(leftover, original)
                else:
                    shutil.rmtree(leftover, ignore_errors=True)
        comm.barrier()

    @property
    def writing(self) -> bool:
        """True if a save is started and not finished."""
        return self._writing is not None

    @property
    def busy(self) -> bool:
        """True if this rank's thread is still writing."""
        return self._writing is not None and self._writing[1].busy

    def start(
        self, engine: Engine, task: Task, progress: TrainingProgress, window: Window, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Copies the state and starts to write it; the previous save must be finished."""
        assert self._writing is None, "one save at a time"
        writer = Writer(self.root / f"{step_folder(progress.step)}.tmp")
        self._writing = progress.step, writer
        self._memory.reset()
        try:
            take_snapshot(self.config, engine, task, progress, window, metrics or {}, self._memory.copy, writer.add)
        finally:
            writer.close()
        if not self.config.train.save_in_background:
            writer.join()
            self._memory.release()

    def finish(self) -> SaveResult | None:
        """Waits for all threads and completes the checkpoint; None if no save was started."""
        if self._writing is None:
            return None
        step, writer = self._writing
        writer.join()
        self._writing = None
        final = self.root / step_folder(step)
        shares = comm.all_gather_objects((writer.entries, describe(writer.error, self.root) if writer.error else ""))
        errors = [f"{error} (rank {rank})" if len(shares) > 1 else error for rank, (_, error) in enumerate(shares) if error]
        if comm.rank() == 0 and not errors:
            try:
                self._complete(writer.folder, final, {name: entry for share, _ in shares for name, entry in share.items()})
            except OSError as error:
                errors = [describe(error, self.root)]
        if comm.rank() == 0 and errors:
            shutil.rmtree(writer.folder, ignore_errors=True)
        message = comm.broadcast_object(errors[0] if errors else "")
        if not message:
            self.saved_step = step
            if self.uploads is not None:
                self.uploads.add(step)
        return SaveResult(step, final, message)

    def tidy(self) -> None:
        """Deletes checkpoints that need not be kept; on an error, more than necessary stay."""
        train = self.config.train
        if comm.rank() == 0:
            try:
                spared = self.uploads.step if self.uploads is not None else None
                tidy(self.root, last=train.keep_last, every=train.keep_every, metric=train.keep_best, spared=spared)
            except OSError:
                return

    def scored(self, step: int, metrics: Mapping[str, float]) -> None:
        """Stores an evaluation for `train.keep_best`."""
        if comm.rank() == 0 and self.config.train.keep_best:
            try:
                record_scores(self.root, step, metrics)
            except OSError:
                return

    def newest(self, before: int) -> int | None:
        """Step of the newest finished checkpoint up to step `before`, equal on every rank."""
        found: int | None = comm.broadcast_object(max((s for s in complete_steps(self.root) if s <= before), default=None))
        return found

    def _complete(self, temporary: Path, final: Path, entries: dict[str, Entry]) -> None:
        for name, entry in entries.items():
            if not (temporary / name).is_file() or (temporary / name).stat().st_size != entry.bytes:
                raise OSError(errno.EIO, f"{name} is not visible to rank 0: output must be on storage that all nodes share")
        write_marker(temporary, entries)
        _sync_folder(temporary)
        if final.exists():
            replaced = final.with_name(final.name + _REPLACED)
            os.replace(final, replaced)
            os.replace(temporary, final)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            os.replace(temporary, final)
        _sync_folder(self.root)
        self.tidy()


def describe(error: OSError, folder: Path) -> str:
    """One line with the meaning of a failed write and its fix."""
    reason = (error.strerror or str(error)).rstrip(".")
    advice = _ADVICE.get(error.errno or 0, "look at the disk or file server")
    return f"{folder}: {reason}: {advice}"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

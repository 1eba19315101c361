"""Writes checkpoints while training continues.

    start     all ranks: copy the state to the CPU; a thread per rank writes its files and reads them back
    finish    all ranks, after every thread is done: rank 0 writes the marker, renames the folder, deletes old ones

The folder has a temporary name until it is complete, so a run that dies at any moment leaves earlier checkpoints intact. A
failed save is reported, and the run continues.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from albef_ds.checkpoint.complete import check_file, write_marker
from albef_ds.checkpoint.retention import record_scores, tidy
from albef_ds.checkpoint.snapshot import Snapshot, Window, take_snapshot
from albef_ds.checkpoint.tensor_files.hashed import Entry, write_text
from albef_ds.checkpoint.tensor_files.lazy import LazyTensor
from albef_ds.checkpoint.tensor_files.safetensors_form import write_safetensors
from albef_ds.checkpoint.training_progress import TrainingProgress
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


@dataclass
class _Writing:
    step: int
    temporary: Path
    thread: threading.Thread | None = None
    entries: dict[str, Entry] = field(default_factory=dict)
    error: str = ""


class Saver:
    """Saves the checkpoints of the run in folder `output`, one save at a time. All ranks call every method together."""

    def __init__(self, output: Path, config: RunConfig) -> None:
        self.root = output / CHECKPOINTS_FOLDER
        self.config = config
        self.saved_step: int | None = None
        """Step of the newest checkpoint that this run has written or resumed from."""
        self._writing: _Writing | None = None

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
        return self._writing is not None and self._writing.thread is not None and self._writing.thread.is_alive()

    def start(
        self, engine: Engine, task: Task, progress: TrainingProgress, window: Window, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Copies the state and starts to write it; the previous save must be finished."""
        assert self._writing is None, "one save at a time"
        snapshot = take_snapshot(self.config, engine, task, progress, window, metrics or {})
        writing = _Writing(progress.step, self.root / f"{step_folder(progress.step)}.tmp")
        writing.thread = threading.Thread(target=_write, args=(writing, snapshot), name="checkpoint", daemon=True)
        self._writing = writing
        writing.thread.start()
        if not self.config.train.save_in_background:
            writing.thread.join()

    def finish(self) -> SaveResult | None:
        """Waits for all threads and completes the checkpoint; None if no save was started."""
        writing = self._writing
        if writing is None:
            return None
        assert writing.thread is not None
        writing.thread.join()
        self._writing = None
        final = self.root / step_folder(writing.step)
        shares = comm.all_gather_objects((writing.entries, writing.error))
        errors = [f"{error} (rank {rank})" if len(shares) > 1 else error for rank, (_, error) in enumerate(shares) if error]
        if comm.rank() == 0 and not errors:
            try:
                self._complete(writing.temporary, final, {name: entry for share, _ in shares for name, entry in share.items()})
            except OSError as error:
                errors = [describe(error, self.root)]
        if comm.rank() == 0 and errors:
            shutil.rmtree(writing.temporary, ignore_errors=True)
        message = comm.broadcast_object(errors[0] if errors else "")
        if not message:
            self.saved_step = writing.step
        return SaveResult(writing.step, final, message)

    def tidy(self) -> None:
        """Deletes checkpoints that need not be kept; on an error, more than necessary stay."""
        train = self.config.train
        if comm.rank() == 0:
            try:
                tidy(self.root, last=train.keep_last, every=train.keep_every, metric=train.keep_best)
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


def _write(writing: _Writing, snapshot: Snapshot) -> None:
    """Runs in the thread: writes this rank's files and reads them back."""
    try:
        # Without `parents`: if the run's folder has vanished, a new one could be on another disk.
        writing.temporary.parent.mkdir(exist_ok=True)
        writing.temporary.mkdir(exist_ok=True)
        for name, tensors in snapshot.tensors.items():
            writing.entries[name] = write_safetensors(
                writing.temporary / name, {key: LazyTensor.of(tensor) for key, tensor in tensors.items()}
            )
            tensors.clear()
        for name, text in snapshot.texts.items():
            writing.entries[name] = write_text(writing.temporary / name, text)
        for name, entry in writing.entries.items():
            if problem := check_file(writing.temporary, name, entry):
                raise OSError(errno.EIO, f"the data read back differs from the data written: {problem}")
    except OSError as error:
        writing.error = describe(error, writing.temporary.parent)


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

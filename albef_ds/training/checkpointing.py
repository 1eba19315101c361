"""Decides when a run writes checkpoints, and rolls it back to one. `checkpoint/saver.py` writes the files."""

from __future__ import annotations

import time
from pathlib import Path

from albef_ds.checkpoint.find import problem_of
from albef_ds.checkpoint.snapshot import restore, restore_progress
from albef_ds.common import comm
from albef_ds.common.run_files import step_folder
from albef_ds.training.agreement import Agreement
from albef_ds.training.context import RunContext, Step
from albef_ds.training.run_folder import set_aside
from albef_ds.training.step_log import StepLog
from albef_ds.training.watchdog import Phase

_COPY_SHARE = 0.8
"""Share of `train.save_limit` in which the last copy to a store has to be complete."""
_COPY_WHEN_STOPPED = 60.0
"""Seconds for the last copy of a run that was asked to stop."""


class Checkpointing:
    """Saves every `train.save_every` steps and at the end. All ranks call every method together."""

    def __init__(self, run: RunContext, log: StepLog) -> None:
        self.error = ""
        """Reason why the last checkpoint could not be written; empty if it was."""
        self._run, self._log, self._saver = run, log, run.saver
        self._metrics: dict[str, float] = {}
        if run.config.train.save_every:
            run.saver.prepare(run.engine.task)

    @property
    def busy(self) -> bool:
        """True while this rank is still writing."""
        return self._saver.busy

    def before_step(self, agreed: Agreement) -> None:
        """Finishes a checkpoint that every rank has written."""
        if self._saver.writing and not agreed.saving:
            self._finish()
        self._report_uploads()

    def after_step(self, _step: Step) -> None:
        """Starts a checkpoint if one is due; `at_end` writes the last one."""
        every = self._run.config.train.save_every
        if every and self._run.progress.step % every == 0 and not self._run.progress.done:
            self._save()

    def at_end(self, *, stopped: bool) -> None:
        """Saves the last checkpoint and waits until it is written, and copied if it is to be.

        The wait for a copy ends before `train.save_limit`, so that the limit does not end a run that is complete. A run that was
        `stopped` from outside waits a minute: what stopped it will not wait for long.
        """
        self._save()
        self._finish()
        limit = 60.0 * self._run.config.train.save_limit * _COPY_SHARE or None
        if stopped:
            limit = min(limit or _COPY_WHEN_STOPPED, _COPY_WHEN_STOPPED)
        if self._saver.uploads is not None:
            with self._run.watchdog.phase(Phase.SAVE, self._run.progress.step):
                self._saver.uploads.wait(limit)
                self._report_uploads()
                comm.barrier()

    def evaluated(self, metrics: dict[str, float]) -> None:
        """Stores an evaluation at this step, for `train.keep_best` and for later checkpoints."""
        self._metrics = metrics
        self._saver.scored(self._run.progress.step, metrics)

    def tidy(self) -> None:
        """Deletes the checkpoints that are not to be kept."""
        self._saver.tidy()

    def restore(self, folder: Path) -> None:
        """Loads the state in `folder` into the engine and the log. The caller sets `progress` before."""
        self._log.window = restore(folder, self._run.engine, self._run.engine.task, self._run.config)
        if folder.resolve().parent == self._saver.root.resolve():
            self._saver.saved_step = self._run.progress.step

    def roll_back(self, bad_steps: int) -> bool:
        """Goes back to the newest checkpoint before the last `bad_steps` and excludes their samples; False if it cannot."""
        train, progress = self._run.config.train, self._run.progress
        self._finish()
        step = self._saver.newest(progress.step - bad_steps)
        if step is None or len(progress.holes) >= train.max_rollbacks:
            return False
        folder = self._saver.root / step_folder(step)
        if problem := problem_of(folder):
            self._run.logger.message(f"no rollback: {folder} is damaged ({problem})")
            return False
        hole = (progress.samples - bad_steps * train.global_batch_size, progress.samples)
        progress.go_back(restore_progress(folder, train), hole)
        self.restore(folder)
        if comm.rank() == 0:
            for line in set_aside(self._saver.root, step):
                self._run.logger.message(line)
        comm.barrier()
        self._run.data.reopen()
        self._run.logger.message(f"rolled back to {folder}; samples {hole[0]} to {hole[1]} of the run will be skipped")
        return True

    def _report_uploads(self) -> None:
        for line in self._saver.uploads.news() if self._saver.uploads is not None else ():
            self._run.logger.message(line)

    def _save(self) -> None:
        """Starts a checkpoint of this step, after finishing the one before."""
        started = time.perf_counter()
        with self._run.watchdog.phase(Phase.SAVE, self._run.progress.step):
            self._finish()
            if self._saver.saved_step != self._run.progress.step:
                self._saver.start(self._run.engine, self._run.engine.task, self._run.progress, self._log.window, self._metrics)
                if not self._run.config.train.save_in_background:
                    self._finish()
        self._run.logger.pause(time.perf_counter() - started)

    def _finish(self) -> None:
        """Waits for the checkpoint that is being written, if any, and logs the result."""
        with self._run.watchdog.phase(Phase.SAVE, self._run.progress.step):
            result = self._saver.finish()
        if result is None:
            return
        self.error = result.error
        text = f"saved {result.folder}"
        if self.error:
            saved = self._saver.saved_step
            newest = f"the newest complete one is of step {saved}" if saved else "there is none yet"
            text = f"the checkpoint of step {result.step} was not written: {result.error}; {newest}, the run continues"
        self._run.logger.message(text)

"""The training loop for every task and engine.

A step is: agree, fetch, `engine.train_step`; then log, check for bad numbers, evaluate, save. All ranks take the same branches:
they first agree on values that only one of them may know (a signal, its clock). `training/start.py` sets a run up;
`training/run.py` handles failures.
"""

from __future__ import annotations

import time

from albef_ds.common import exit_codes
from albef_ds.data.batch import Batch
from albef_ds.engine.optim import scheduled_rate
from albef_ds.training.agreement import Agreement
from albef_ds.training.bad_steps import BadSteps
from albef_ds.training.checkpointing import Checkpointing
from albef_ds.training.context import RunContext, Step
from albef_ds.training.garbage import GarbageCollection
from albef_ds.training.profiling import StepProfile
from albef_ds.training.step_log import StepLog
from albef_ds.training.stop import StopRequest, code_of, name_of
from albef_ds.training.validation import Validation
from albef_ds.training.watchdog import Phase


class Trainer:
    """One run on this rank, from its first step to its exit code. `request` asks it to stop."""

    def __init__(self, run: RunContext, request: StopRequest) -> None:
        self.config, self.engine, self.progress = run.config, run.engine, run.progress
        self.data, self.logger, self.watchdog = run.data, run.logger, run.watchdog
        self.request = request
        self.log = StepLog(run)
        self.checkpoints = Checkpointing(run, self.log)
        self.bad_steps = BadSteps(run, self.checkpoints)
        self.validation = Validation(run, self.checkpoints)
        self.garbage = GarbageCollection(run.config.train.gc_every)
        self.profile = StepProfile(run.config.train.profiled, run.output, run.engine.device, run.logger.message)

    def run(self) -> int:
        """Trains to the planned end or until asked to stop, saves, evaluates and returns the exit code."""
        with self.garbage.controlled():
            self._steps()
        self.profile.at_end(self.progress.step)
        self.checkpoints.at_end(stopped=bool(self.request.agreed))
        if not (self.request.agreed or self.bad_steps.too_many):
            self.validation.at_end()
        return self._exit_code()

    def _steps(self) -> None:
        while not (self._agree_to_stop() or self.progress.done):
            started = time.perf_counter()
            self.profile.before_step(self.progress.step + 1)
            step = self._step()
            self.log.after_step(step)
            self.bad_steps.after_step(step)
            self.profile.after_step(self.progress.step)
            self.garbage.after_step(self.progress.step)
            self.progress.seconds += time.perf_counter() - started
            if self.bad_steps.too_many:
                break
            self.validation.after_step(step)
            self.checkpoints.after_step(step)

    def _agree_to_stop(self) -> bool:
        """Exchanges values that only one rank may know, acts on them and returns whether any rank was asked to stop."""
        self.watchdog.at(Phase.AGREEMENT, self.progress.step)
        own = Agreement(self.request.number, self.progress.seconds, self.checkpoints.busy, self.bad_steps.last_loss)
        agreed = own.over_ranks(self.engine.device)
        self.progress.seconds = agreed.seconds
        self.checkpoints.before_step(agreed)
        self.bad_steps.before_step(agreed)
        self.request.agreed = agreed.stop
        return bool(agreed.stop)

    def _step(self) -> Step:
        """Takes one optimizer step, with the schedule at the samples that the weights have learned from."""
        started = time.perf_counter()
        self.watchdog.at(Phase.DATA, self.progress.step + 1)
        micro_batches = self._fetch()
        waited = time.perf_counter() - started
        self.watchdog.at(Phase.STEP, self.progress.step + 1)
        schedule = self.engine.task.schedule(self.progress.learned_epoch)
        progress = self.progress
        rate = scheduled_rate(self.config, progress.learned_samples, progress.total_samples, progress.num_samples)
        result = self.engine.train_step(micro_batches, schedule, rate)
        self.progress.advance(result.skipped)
        return Step(micro_batches, schedule, rate, result, waited)

    def _fetch(self) -> list[Batch]:
        return self.data.next_step()

    def _exit_code(self) -> int:
        number = self.request.agreed
        if number:
            self.logger.message(f"stopped by {name_of(number)}; resume the run to continue")
        if self.checkpoints.error:
            self.logger.message(f"the last checkpoint is missing: {self.checkpoints.error}")
            return exit_codes.NOT_SAVED
        return exit_codes.BAD_NUMBERS if self.bad_steps.too_many else code_of(number)

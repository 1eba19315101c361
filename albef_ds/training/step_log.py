"""Logs steps: means over the ranks and over the steps since the last log line, and warnings about the loss."""

from __future__ import annotations

import math

from albef_ds.checkpoint.snapshot import Window
from albef_ds.common import comm
from albef_ds.config.schema import DataConfig
from albef_ds.engine.interface import StepResult
from albef_ds.training.context import RunContext, Step
from albef_ds.training.loss_band import Point, monitor_of
from albef_ds.training.run_log import DATA_WAIT, TOKENS
from albef_ds.training.speed import Speed

_LOSS, _METRIC = "losses.", "metrics."


class StepLog:
    """Collects the numbers of every step and logs them every `train.log_every` steps."""

    def __init__(self, run: RunContext) -> None:
        self.window: Window = []
        """This rank's numbers of the steps since the last log line; part of a checkpoint."""
        self._run = run
        self._band = monitor_of(run.config)
        self._speed = Speed(run.config, run.engine.device, run.precision)
        run.logger.message(self._speed.describe())
        self._said_cut = False

    def after_step(self, step: Step) -> None:
        """Collects the numbers of `step`; on steps that are logged all ranks exchange theirs."""
        progress, train, logger = self._run.progress, self._run.config.train, self._run.logger
        write = progress.step % train.log_every == 0 or progress.step == 1 or step.result.skipped
        self.window.append(_flat(step.result))
        self._speed.after_step(step.micro_batches)
        values = {DATA_WAIT: step.waited} | (self._summary(step) if write else {})
        total = round(progress.total_samples / train.global_batch_size)
        logger.step(progress.step, values, samples=train.global_batch_size, write=write, total_steps=total)
        if write and self._band and math.isfinite(values["loss"]):
            point = Point(progress.step, progress.epoch, values["loss"])
            if alarm := self._band.look(point):
                logger.message(alarm)

    def _summary(self, step: Step) -> dict[str, float]:
        """Returns means over the steps since the last log line and over the ranks, and the schedule of `step`."""
        task, device = self._run.engine.task, self._run.engine.device
        means = comm.all_reduce_mean(_mean(self.window), device)
        self.window.clear()
        losses = {name.removeprefix(_LOSS): value for name, value in means.items() if name.startswith(_LOSS)}
        metrics = {name.removeprefix(_METRIC): value for name, value in means.items() if name.startswith(_METRIC)}
        data = self._run.data
        own = {"broken_samples": float(data.num_broken()), "cut": float(data.num_cut()), TOKENS: self._speed.tokens()}
        counts = comm.all_reduce_mean(own, device)
        if counts.pop("cut") and not self._said_cut:
            self._said_cut = True
            self._run.logger.message(_cut_texts(self._run.config.training_data))
        metrics |= {name: value * comm.world_size() for name, value in counts.items() if value}
        metrics |= self._speed.least_seconds() | data.shares()
        values = {"loss": task.total(losses)} | {f"loss_{name}": value for name, value in losses.items()}
        values |= metrics | {name: float(value) for name, value in step.schedule.items()}
        return values | {
            "learning_rate": step.learning_rate,
            "grad_norm": step.result.grad_norm,
            "epoch": self._run.progress.epoch,
        }


def _cut_texts(limits: DataConfig) -> str:
    return (
        f"some texts have more than data.max_words={limits.max_words} words or data.max_tokens={limits.max_tokens} tokens: "
        "their ends are not read (this is said once)"
    )


def _flat(result: StepResult) -> dict[str, float]:
    losses = {_LOSS + name: value for name, value in result.losses.items()}
    return losses | {_METRIC + name: value for name, value in result.metrics.items()}


def _mean(parts: Window) -> dict[str, float]:
    """Returns means over steps; a loss that is not part of a step counts as 0 there."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) / len(parts) for name in names}

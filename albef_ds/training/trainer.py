"""The training loop: one for every task and engine.

A step is: fetch, `engine.train_step`, log; the rest (evaluate, save, stop) are named methods. All ranks walk through the
same branches: whatever a rank knows alone (a signal, its clock) is agreed on first. How a run is started and how it ends
when something fails is `training/run.py`'s.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from albef_ds.checkpoint.find import find_checkpoint, problem_of
from albef_ds.checkpoint.initial.load import load_initial_momentum, load_initial_weights
from albef_ds.checkpoint.saver import Saver
from albef_ds.checkpoint.snapshot import restore, restore_progress, seed_generators
from albef_ds.checkpoint.training_progress import Progress
from albef_ds.common import comm, exit_codes
from albef_ds.common.device import resolve_precision
from albef_ds.common.errors import ConfigError, MachineError
from albef_ds.common.run_files import BAD_STEPS_NAME, CHECKPOINTS_FOLDER, CONFIG_NAME, step_folder
from albef_ds.config import files
from albef_ds.config.schema import RunConfig
from albef_ds.data.batch import Batch
from albef_ds.data.stream.open import open_stream
from albef_ds.data.stream.ordered import Stream
from albef_ds.engine.build import attach_momentum, build_engine, build_task
from albef_ds.engine.interface import StepResult
from albef_ds.engine.optim import learning_rate
from albef_ds.evaluation.evaluate import check_validation, evaluate_validation
from albef_ds.evaluation.examples import Examples, draw, is_sharded, read_examples
from albef_ds.models.norms import choose_norm
from albef_ds.tasks.registry import kind_of
from albef_ds.training.bad_steps import BadStepLog, SpikeMonitor
from albef_ds.training.loss_band import Point, monitor_of
from albef_ds.training.run_folder import abandon, claim, set_aside
from albef_ds.training.run_log import RunLogger
from albef_ds.training.stop import StopRequest, code_of, name_of
from albef_ds.training.watchdog import Watchdog

_LOSS, _METRIC = "losses.", "metrics."


class Trainer:
    """One run on this rank."""

    def __init__(
        self,
        config: RunConfig,
        device: torch.device,
        request: StopRequest,
        watchdog: Watchdog,
        resume: str | None = None,
        *,
        overwrite: bool = False,
    ) -> None:
        self.config = config
        self.device = device
        self.request = request
        self.watchdog = watchdog
        self.output = Path(config.output)
        self.resume = resume
        self.folder = find_checkpoint(self.output, resume, _print_on_rank_0) if resume else None
        self.progress = restore_progress(self.folder, config.train) if self.folder else Progress(config.train)
        self.accumulation = config.accumulation_steps(comm.world_size())
        self.stream = self._open_stream()
        if self.stream.num_samples is None and not (config.train.max_steps or config.train.max_minutes):
            raise ConfigError("data.shards has no manifest, so its length is unknown: set train.max_steps or train.max_minutes")
        if comm.rank() == 0:
            check_validation(config)
        self._window: list[dict[str, float]] = []  # since the last written step: what is logged is their mean
        self._metrics: dict[str, float] = {}
        self._examples: Examples | None = None
        self._last: tuple[list[Batch], StepResult] | None = None
        self._bad_in_a_row = 0
        self._stopped_by_bad_numbers = False
        self._spikes = SpikeMonitor(config.train.spike)
        self._part = 1.0
        self._bad_log = BadStepLog(self.output)
        self._band = monitor_of(config)
        self.saver = Saver(self.output, config)
        self._save_error = ""
        self._made_output = comm.rank() == 0 and not self.output.exists()
        self.logger = self._open_output(overwrite)

    def run(self) -> int:
        """Build, train to the end or until told to stop, evaluate, save."""
        config = self.config
        precision = self.precision = resolve_precision(config.engine.precision, self.device)
        self._say(
            f"{comm.world_size()} x {self.device.type}, {precision}, "
            f"{config.engine.kind if config.engine.kind == 'local' else f'ZeRO stage {config.engine.stage}'}, global batch "
            f"{config.train.global_batch_size} = {comm.world_size()} x {config.train.micro_batch_size} x {self.accumulation}"
        )
        self.task = build_task(config, precision)
        if self.folder is None:
            for line in load_initial_weights(self.task, config):
                self._say(line)
        attach_momentum(self.task, config)
        if self.folder is None:
            for line in load_initial_momentum(self.task, config):
                self._say(line)
        self.engine = build_engine(self.task, config, self.device, precision)
        self._say(f"AdamW: {self.engine.optimizer_name}; LayerNorm: {choose_norm(config.compute.layer_norm)}")
        if self.folder is not None:
            self._restore(self.folder)
            self._say(f"resumed from {self.folder} at step {self.progress.step}")
        else:
            if self.resume:
                self._say(f"no checkpoint in {self.output}: starting anew")
            if comm.is_distributed():
                seed_generators(config.train.seed, 0)
        self.task.train()
        if config.train.dry_run_batch:
            self._dry_run()
        self._train()
        self._save()
        self._finish_save()
        if not self.request.agreed and not self._stopped_by_bad_numbers:
            self._evaluate()
            self.saver.tidy()
        return self._exit_code()

    def close(self) -> None:
        """End loader processes and close the log; a folder in which nothing has happened goes again."""
        self.stream.close()
        self.logger.close()
        if self._made_output:
            abandon(self.output)

    def _say(self, text: str) -> None:
        self.logger.message(text)

    def _open_stream(self) -> Stream[Batch]:
        stream = open_stream(
            self.config,
            kind_of(self.config.task).samples,
            rank=comm.rank(),
            world_size=comm.world_size(),
            start_position=self.progress.samples,
            pin_memory=self.device.type == "cuda",
        )
        self.progress.num_samples = stream.num_samples
        return stream

    def _open_output(self, overwrite: bool) -> RunLogger:
        """Claim the folder, write config.json and open the log; rank 0 does, all ranks hear how it went."""
        problem, said = "", list[str]()
        if comm.rank() == 0:
            try:
                said = claim(self.output, self.resume, self.folder, overwrite=overwrite)
                files.save(self.config, self.output / CONFIG_NAME)
            except FileExistsError as error:
                problem = str(error) if error.errno is None else self._unusable(error)
            except OSError as error:
                problem = self._unusable(error)
        problem = comm.broadcast_object(problem)
        if problem:
            raise MachineError(problem)
        self.saver.clean()
        logger = RunLogger(self.output, comm.rank() == 0, self.config.train.progress, self.progress.total_steps)
        for line in said:
            logger.message(line)
        return logger

    def _unusable(self, error: OSError) -> str:
        return f"output {self.output} cannot be written ({error}): give another folder"

    def _restore(self, folder: Path) -> None:
        self._window = restore(folder, self.engine, self.task, self.config)
        if folder.resolve().parent == (self.output / CHECKPOINTS_FOLDER).resolve():
            self.saver.saved_step = self.progress.step

    def _dry_run(self) -> None:
        """A full-size mock batch before step 1: running out of memory is met now, not at the longest caption."""
        batch = kind_of(self.config.task).samples.mock(self.config).to(self.device)
        try:
            self.engine.dry_run(batch, self.task.schedule(math.inf))  # when all losses take part
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"train.micro_batch_size {self.config.train.micro_batch_size} does not fit into memory ({error}): lower it, set "
                "compute.checkpoint_visual=true and compute.checkpoint_multimodal=true, or use engine.stage=3"
            ) from None

    def _train(self) -> None:
        self._batches = iter(self.stream)
        every = self.config.train
        while not (self._agree_to_stop() or self.progress.done):
            started = time.perf_counter()
            self.watchdog.at("data", self.progress.step + 1, 0)
            micro_batches = self._fetch()
            waited = time.perf_counter() - started
            self.watchdog.at("step", self.progress.step + 1, 1)
            self._step(micro_batches, waited)
            self.progress.seconds += time.perf_counter() - started
            if self._stopped_by_bad_numbers:
                return
            if every.eval_every and self.progress.step % every.eval_every == 0 and not self.progress.done:
                self._evaluate()
            if every.save_every and self.progress.step % every.save_every == 0 and not self.progress.done:
                self._save()

    def _fetch(self) -> list[Batch]:
        if self.progress.jump():
            self._reopen_stream()
        return [next(self._batches).to(self.device) for _ in range(self.accumulation)]

    def _reopen_stream(self) -> None:
        self.stream.close()
        self.stream = self._open_stream()
        self._batches = iter(self.stream)

    def _step(self, micro_batches: list[Batch], waited: float) -> None:
        progress, train = self.progress, self.config.train
        schedule = self.task.schedule(progress.learned_epoch)
        rate = learning_rate(self.config.optim, progress.learned_samples, progress.total_samples)
        result = self.engine.train_step(micro_batches, schedule, rate)
        progress.advance(result.skipped)
        self._last = micro_batches, result
        self._part = schedule.get("fuse", 1.0)
        write = progress.step % train.log_every == 0 or progress.step == 1 or result.skipped
        values = {"data_wait": waited}
        self._window.append(_flat(result))
        if write:
            values |= self._summary(schedule, rate, result.grad_norm)
        total = round(progress.total_samples / train.global_batch_size)
        self.logger.step(progress.step, values, samples=train.global_batch_size, write=write, total_steps=total)
        if write and self._band and math.isfinite(values["loss"]):
            point = Point(progress.step, progress.epoch, values["loss"])
            if said := self._band.look(point):
                self._say(said)
        if result.skipped:
            self._skipped(micro_batches, result)
        else:
            self._bad_in_a_row = 0

    def _summary(self, schedule: Mapping[str, float], rate: float, grad_norm: float) -> dict[str, float]:
        """What is written of the steps since the last written one: means over them and over the ranks."""
        means = comm.all_reduce_mean(_mean(self._window), self.device)
        self._window.clear()
        losses = {name.removeprefix(_LOSS): value for name, value in means.items() if name.startswith(_LOSS)}
        metrics = {name.removeprefix(_METRIC): value for name, value in means.items() if name.startswith(_METRIC)}
        broken = comm.all_reduce_mean({"broken_samples": float(self._broken_samples())}, self.device)
        metrics |= {name: value * comm.world_size() for name, value in broken.items() if value}
        values = {"loss": self.task.total(losses)} | {f"loss_{name}": value for name, value in losses.items()}
        values |= metrics | dict(schedule)
        return values | {"learning_rate": rate, "grad_norm": grad_norm, "epoch": self.progress.epoch}

    def _skipped(self, micro_batches: list[Batch], result: StepResult) -> None:
        """A step that moved nothing: report it, and stop or roll back after too many in a row."""
        step, train = self.progress.step, self.config.train
        lost = self._bad_log.write("skipped", step, micro_batches, result.losses, result.grad_norm)
        self._say(
            f"step {step}: {'losses' if lost else 'gradients'} are not finite, optimizer, momentum and queue did not move; its "
            f"samples are in {self.output / BAD_STEPS_NAME}"
        )
        if self.precision == "fp16" and not lost:  # the loss scale is finding its place; its end is the engine's to notice
            return
        self._bad_in_a_row += 1
        if self._bad_in_a_row < train.bad_steps:
            return
        if train.on_bad_steps == "rollback" and self._roll_back():
            return
        self._stopped_by_bad_numbers = True
        self._say(
            f"{self._bad_in_a_row} steps in a row were not finite: look at their samples in {self.output / BAD_STEPS_NAME}, "
            "lower optim.learning_rate, or set train.on_bad_steps=rollback"
        )

    def _roll_back(self) -> bool:
        """Go back to the checkpoint before the bad steps, and mark their samples to be jumped over; False if that cannot be."""
        train, progress = self.config.train, self.progress
        self._finish_save()
        step = self.saver.newest(progress.step - self._bad_in_a_row)
        if step is None or len(progress.holes) >= train.max_rollbacks:
            return False
        folder = self.output / CHECKPOINTS_FOLDER / step_folder(step)
        if problem := problem_of(folder):
            self._say(f"no rollback: {folder} is damaged ({problem})")
            return False
        hole = (progress.samples - self._bad_in_a_row * train.global_batch_size, progress.samples)
        seconds, holes = progress.seconds, [*progress.holes, hole]
        self.progress = restore_progress(folder, train)
        self.progress.seconds, self.progress.holes = seconds, holes
        self._restore(folder)
        if comm.rank() == 0:
            for line in set_aside(self.output / CHECKPOINTS_FOLDER, step):
                self._say(line)
        comm.barrier()
        self._reopen_stream()
        self._bad_in_a_row = 0
        self._say(f"rolled back to {folder}; samples {hole[0]} to {hole[1]} of the run will be jumped over")
        return True

    def _broken_samples(self) -> int:
        """Samples that this rank found broken and replaced by others."""
        return sum(sum(reasons.values()) for reasons in self.stream.broken_counts().values())

    def _agree_to_stop(self) -> bool:
        """Whether any rank was told to stop; makes rank 0's clock everyone's, ends a save that all ranks have written."""
        self.watchdog.at("agreement", self.progress.step, 4)
        loss = self.task.total(self._last[1].losses) if self._last else math.nan
        vote = torch.tensor(
            [self.request.number, self.progress.seconds, self.saver.busy, loss if math.isfinite(loss) else -math.inf],
            dtype=torch.float64,
        )
        if comm.is_distributed():
            vote = vote.to(self.device)
            dist.all_reduce(vote, op=dist.ReduceOp.MAX)
        number, self.progress.seconds, busy, loss = vote.tolist()
        if self.saver.writing and not busy:
            self._finish_save()
        if self._last is not None and math.isfinite(loss) and (odd := self._spikes.spike(loss, self._part)):
            micro_batches, result = self._last
            self._bad_log.write("spike", self.progress.step, micro_batches, result.losses, result.grad_norm)
            self._say(f"step {self.progress.step}: {odd}; its samples are in {self.output / BAD_STEPS_NAME}")
        self._last = None
        self.request.agreed = int(number)
        return bool(number)

    def _evaluate(self) -> None:
        """The task's measure on the validation split, where there is one."""
        started = time.perf_counter()
        with self.watchdog.phase("evaluation", self.progress.step, 2):
            metrics = evaluate_validation(self.task, self.config, self.device)
            if metrics and self.config.train.eval_pictures:
                self._show_examples()
        self.logger.pause(time.perf_counter() - started)
        if metrics:
            shown = [name for name in metrics if name.endswith(("_r1", "_r10", "accuracy"))]
            self.logger.event("evaluation", metrics, shown=shown)
            self._metrics = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
            self.saver.scored(self.progress.step, self._metrics)

    def _show_examples(self) -> None:
        """Pictures of the evaluation for TensorBoard; rank 0 makes them alone where it holds whole parameters."""
        if comm.rank() != 0 and not is_sharded(self.task):
            return
        first, self._examples = self._examples is None, self._examples or read_examples(self.config)
        if self._examples is not None:
            images, remark = draw(self.task, self._examples, self.device, self.config.train.micro_batch_size)
            self.logger.pictures("evaluation", {name: np.asarray(image) for name, image in images.items()})
            if remark and first:
                self._say(remark)

    def _save(self) -> None:
        """Begin a checkpoint of this step; the one before is finished first."""
        started = time.perf_counter()
        with self.watchdog.phase("save", self.progress.step, 3):
            self._finish_save()
            if self.saver.saved_step != self.progress.step:
                self.saver.start(self.engine, self.task, self.progress, self._window, self._metrics)
                if not self.config.train.save_in_background:
                    self._finish_save()
        self.logger.pause(time.perf_counter() - started)

    def _finish_save(self) -> None:
        """Wait for the checkpoint that is being written, if there is one, and say how it went."""
        with self.watchdog.phase("save", self.progress.step, 3):
            result = self.saver.finish()
        if result is None:
            return
        self._save_error = result.error
        if not result.error:
            self._say(f"saved {result.folder}")
            return
        whole = f"the newest whole one is of step {self.saver.saved_step}" if self.saver.saved_step else "there is none yet"
        self._say(f"the checkpoint of step {result.step} was not written: {result.error}; {whole}, the run goes on")

    def _exit_code(self) -> int:
        number = self.request.agreed
        if number:
            self._say(f"stopped by {name_of(number)}; resume it to go on")
        if self._save_error:
            self._say(f"the last checkpoint is missing: {self._save_error}")
            return exit_codes.NOT_SAVED
        return exit_codes.BAD_NUMBERS if self._stopped_by_bad_numbers else code_of(number)


def _flat(result: StepResult) -> dict[str, float]:
    losses = {_LOSS + name: value for name, value in result.losses.items()}
    return losses | {_METRIC + name: value for name, value in result.metrics.items()}


def _print_on_rank_0(text: str) -> None:
    if comm.rank() == 0:
        print(text, file=sys.stderr, flush=True)


def _mean(parts: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}

"""The training loop: one for every task and engine.

A step is: fetch, `engine.train_step`, log; the rest (evaluate, save, stop) are named methods. All ranks walk through the
same branches: whatever a rank knows alone (a signal, its clock) is agreed on first.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from albef_ds import comm
from albef_ds.build import attach_momentum, build_engine, build_task, load_initial_weights, start_ranks
from albef_ds.checkpoint import find_checkpoint, load_checkpoint, load_task_weights, restore_progress, save_checkpoint
from albef_ds.config import files
from albef_ds.config.schema import RunConfig
from albef_ds.data.mock import mock_batch
from albef_ds.data.stream import open_stream
from albef_ds.device import resolve_device, resolve_precision
from albef_ds.engine import StepResult
from albef_ds.errors import ConfigError
from albef_ds.evaluation import evaluate_validation
from albef_ds.logging import RunLogger
from albef_ds.optim import learning_rate
from albef_ds.progress import Progress
from albef_ds.signals import StopRequest
from albef_ds.types import Batch

INTERRUPTED = 130
"""Exit code of a run that Ctrl-C ended (with a checkpoint)."""
PREEMPTED = 143
"""Exit code of a run that SIGTERM, SIGUSR1 or SIGUSR2 ended (with a checkpoint)."""


def run(config: RunConfig, resume: str | None = None) -> int:
    """Train as `config` says; returns the exit code.

    Args:
        config: the resolved configuration.
        resume: a checkpoint folder, `auto` for the newest of the output folder, or None to start anew.

    Raises:
        ConfigError: anything that the user can mend.
    """
    device = resolve_device(config.engine.device)
    start_ranks(config, device)
    request = StopRequest()
    try:
        with request.installed():
            trainer = Trainer(config, device, request, resume)
            try:
                return trainer.run()
            finally:
                trainer.close()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


class Trainer:
    """One run on this rank."""

    def __init__(self, config: RunConfig, device: torch.device, request: StopRequest, resume: str | None) -> None:
        self.config = config
        self.device = device
        self.request = request
        self.output = Path(config.output)
        self.resumes = resume is not None
        self.folder = find_checkpoint(self.output, resume) if resume else None
        self.progress = restore_progress(self.folder, config.train) if self.folder else Progress(config.train)
        self.stream = open_stream(
            config,
            rank=comm.rank(),
            world_size=comm.world_size(),
            start_position=self.progress.samples,
            pin_memory=device.type == "cuda",
        )
        self.progress.num_samples = self.stream.num_samples
        if self.stream.num_samples is None and not (config.train.max_steps or config.train.max_minutes):
            raise ConfigError("data.shards has no manifest, so its length is unknown: set train.max_steps or train.max_minutes")
        self.accumulation = config.accumulation_steps(comm.world_size())
        self._window: list[StepResult] = []  # since the last written step: what is logged is their mean
        self.logger = self._open_output()

    def run(self) -> int:
        """Build, train to the end or until told to stop, evaluate, save."""
        config = self.config
        precision = resolve_precision(config.engine.precision, self.device)
        self._say(
            f"{comm.world_size()} x {self.device.type}, {precision}, "
            f"{config.engine.kind if config.engine.kind == 'local' else f'ZeRO stage {config.engine.stage}'}, global batch "
            f"{config.train.global_batch_size} = {comm.world_size()} x {config.train.micro_batch_size} x {self.accumulation}"
        )
        self.task = build_task(config)
        if self.folder is None:
            if config.init.checkpoint:
                self._say(f"weights: {load_task_weights(self.task, Path(config.init.checkpoint))}")
            else:
                for line in load_initial_weights(self.task, config):
                    self._say(line)
        attach_momentum(self.task, config)
        self.engine = build_engine(self.task, config, self.device, precision)
        if self.folder is not None:
            load_checkpoint(self.folder, self.engine, self.task)
            self._say(f"resumed from {self.folder} at step {self.progress.step}")
        elif self.resumes:
            self._say(f"no checkpoint in {self.output}: starting anew")
        self.task.train()
        if config.train.dry_run_batch:
            self._dry_run()
        self._train()
        self._say(f"saved {self._save()}")
        if self.request.signal is None:
            self._evaluate()
        return self._exit_code()

    def close(self) -> None:
        """End loader processes and close the log."""
        self.stream.close()
        self.logger.close()

    def _say(self, text: str) -> None:
        self.logger.message(text)

    def _open_output(self) -> RunLogger:
        """Write config.json and open the log."""
        try:
            if comm.rank() == 0:
                files.save(self.config, self.output / "config.json")
            logger = RunLogger(self.output, comm.rank() == 0, self.config.train.progress, self.progress.total_steps)
        except OSError as error:
            raise ConfigError(f"output {self.output} cannot be written ({error}): give another --output") from None
        comm.barrier()
        return logger

    def _dry_run(self) -> None:
        """A full-size mock batch before step 1: running out of memory is met now, not at the longest caption."""
        batch = mock_batch(self.config).to(self.device)
        try:
            self.engine.dry_run(batch, self.task.schedule(self.progress.epoch))
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"train.micro_batch_size {self.config.train.micro_batch_size} does not fit into memory ({error}): lower it, set "
                "compute.checkpoint_visual=true and compute.checkpoint_multimodal=true, or use engine.stage=3"
            ) from None

    def _train(self) -> None:
        batches = iter(self.stream)
        every = self.config.train
        while not (self._agree_to_stop() or self.progress.done):
            started = time.perf_counter()
            micro_batches = self._fetch(batches)
            waited = time.perf_counter() - started
            self._step(micro_batches, waited)
            self.progress.seconds += time.perf_counter() - started
            if every.eval_every and self.progress.step % every.eval_every == 0 and not self.progress.done:
                self._evaluate()
            if every.save_every and self.progress.step % every.save_every == 0 and not self.progress.done:
                self._save()

    def _fetch(self, batches: Iterator[Batch]) -> list[Batch]:
        return [next(batches).to(self.device) for _ in range(self.accumulation)]

    def _step(self, micro_batches: list[Batch], waited: float) -> None:
        progress, train = self.progress, self.config.train
        schedule = self.task.schedule(progress.epoch)
        rate = learning_rate(self.config.optim, progress.samples, progress.total_samples)
        result = self.engine.train_step(micro_batches, schedule, rate)
        progress.step += 1
        progress.samples += train.global_batch_size
        write = progress.step % train.log_every == 0 or progress.step == 1 or result.skipped
        values = {"data_wait": waited}
        self._window.append(result)
        if write:
            losses, metrics = (
                comm.all_reduce_mean(_mean([getattr(part, kind) for part in self._window]), self.device)
                for kind in ("losses", "metrics")
            )
            self._window.clear()
            broken = comm.all_reduce_mean({"broken_samples": float(self._broken_samples())}, self.device)
            metrics |= {name: value * comm.world_size() for name, value in broken.items() if value}
            values |= {"loss": self.task.total(losses)} | {f"loss_{name}": value for name, value in losses.items()}
            values |= metrics | schedule
            values |= {"learning_rate": rate, "grad_norm": result.grad_norm, "epoch": progress.epoch}
        if result.skipped:
            self._say(f"step {progress.step}: the gradients are not finite, optimizer, momentum and queue did not move")
        total = round(progress.total_samples / train.global_batch_size)
        self.logger.step(progress.step, values, samples=train.global_batch_size, write=write, total_steps=total)

    def _broken_samples(self) -> int:
        """Samples that this rank found broken and replaced by others."""
        return sum(sum(reasons.values()) for reasons in self.stream.broken_counts().values())

    def _agree_to_stop(self) -> bool:
        """Whether any rank was told to stop; also makes rank 0's clock everyone's."""
        vote = torch.tensor([float(self.request.signal or 0), self.progress.seconds], dtype=torch.float64)
        if comm.is_distributed():
            vote = vote.to(self.device)
            dist.all_reduce(vote, op=dist.ReduceOp.MAX)
        number, self.progress.seconds = vote.tolist()
        if number and self.request.signal is None:
            self.request.signal = int(number)
        return bool(number)

    def _evaluate(self) -> None:
        """The task's measure on the validation split, where there is one."""
        started = time.perf_counter()
        metrics = evaluate_validation(self.task, self.config, self.device)
        self.logger.pause(time.perf_counter() - started)
        if metrics:
            shown = [name for name in metrics if name.endswith(("_r1", "_r10", "accuracy"))]
            self.logger.event("evaluation", metrics, shown=shown)

    def _save(self) -> Path:
        started = time.perf_counter()
        folder = save_checkpoint(self.output, self.config, self.engine, self.task, self.progress)
        self.logger.pause(time.perf_counter() - started)
        return folder

    def _exit_code(self) -> int:
        if self.request.signal is None:
            return 0
        self._say(f"stopped by {signal.Signals(self.request.signal).name}; go on with --resume auto")
        return INTERRUPTED if self.request.signal == signal.SIGINT else PREEMPTED


def _mean(parts: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}

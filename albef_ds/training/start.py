"""Sets up a run before its first step: checkpoint to resume, data, output folder, model, engine, on all ranks in this order."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from albef_ds.checkpoint.find import AUTO, find_checkpoint
from albef_ds.checkpoint.initial.load import load_initial_momentum, load_initial_weights
from albef_ds.checkpoint.remote import check_unused, forget
from albef_ds.checkpoint.saver import Saver
from albef_ds.checkpoint.snapshot import restore_progress, seed_generators
from albef_ds.checkpoint.training_progress import TrainingProgress
from albef_ds.common import comm
from albef_ds.common.device import resolve_precision
from albef_ds.common.errors import ConfigError
from albef_ds.common.run_files import CHECKPOINTS_FOLDER
from albef_ds.config.schema import RunConfig
from albef_ds.engine.build import attach_momentum, build_engine, build_task
from albef_ds.engine.interface import Engine
from albef_ds.evaluation.evaluate import check_validation
from albef_ds.models.norms import choose_norm
from albef_ds.tasks.registry import kind_of
from albef_ds.training.context import RunContext
from albef_ds.training.run_data import RunData
from albef_ds.training.run_folder import abandon, claim_together
from albef_ds.training.run_log import RunLogger
from albef_ds.training.stop import StopRequest
from albef_ds.training.trackers.interface import check_installed
from albef_ds.training.trackers.processes import TrackerProcess
from albef_ds.training.trackers.start import start_trackers
from albef_ds.training.trainer import Trainer
from albef_ds.training.watchdog import Watchdog


@contextlib.contextmanager
def started(
    config: RunConfig,
    device: torch.device,
    request: StopRequest,
    watchdog: Watchdog,
    resume: str | None = None,
    *,
    overwrite: bool = False,
) -> Iterator[Trainer]:
    """Yields a trainer before the first step of this invocation, and closes its files and processes after the block.

    `request` and `watchdog` belong to this invocation; the other arguments and errors are those of `run.run`.
    """
    output = Path(config.output)
    checkpoint = find_checkpoint(output, resume, store=config.train.checkpoint_store) if resume else None
    progress = restore_progress(checkpoint, config.train) if checkpoint else TrainingProgress(config.train)
    with contextlib.ExitStack() as at_end:
        data = RunData(config, progress, device)
        at_end.callback(data.close)
        if comm.rank() == 0:
            check_validation(config)
            check_installed(config.train.tracker_names)
            own = checkpoint is not None and checkpoint.resolve().parent == (output / CHECKPOINTS_FOLDER).resolve()
            if config.train.checkpoint_store and not (resume == AUTO or own or overwrite):
                check_unused(config.train.checkpoint_store)
        saver = Saver(output, config)
        if comm.rank() == 0 and not output.exists():
            at_end.callback(abandon, output)
        lines = claim_together(config, resume, checkpoint, overwrite=overwrite)
        if overwrite and config.train.checkpoint_store and comm.rank() == 0:
            forget(config.train.checkpoint_store)
        saver.clean()
        logger = _logger(config, progress.total_steps, resumed=checkpoint is not None)
        at_end.callback(logger.close)
        for line in lines:
            logger.message(line)
        precision = resolve_precision(config.engine.precision, device)
        kind = "local" if config.engine.kind == "local" else f"ZeRO stage {config.engine.stage}"
        logger.message(
            f"{comm.world_size()} x {device.type}, {precision}, {kind}, global batch {config.train.global_batch_size} = "
            f"{comm.world_size()} x {config.train.micro_batch_size} x {data.accumulation}"
        )
        for line in data.news:
            logger.message(line)
        engine = _engine(config, device, precision, logger.message, fresh=checkpoint is None)
        trainer = Trainer(RunContext(config, output, precision, engine, data, progress, saver, logger, watchdog), request)
        if checkpoint is not None:
            trainer.checkpoints.restore(checkpoint)
            logger.message(f"resumed from {checkpoint} at step {progress.step}")
        else:
            if resume:
                logger.message(f"no checkpoint in {output}: starting a new run")
            if comm.is_distributed():
                seed_generators(config.train.seed, 0)
        engine.task.train()
        if config.train.dry_run_batch:
            _dry_run(config, engine)
        yield trainer


def _logger(config: RunConfig, total_steps: int | None, *, resumed: bool) -> RunLogger:
    """Returns the logger, on rank 0 with the trackers of the run."""
    trackers: list[TrackerProcess] = []
    board = "tensorboard" in config.train.tracker_names
    logger = RunLogger(Path(config.output), comm.rank() == 0, config.train.progress, total_steps, board=board, trackers=trackers)
    if comm.rank() == 0:
        trackers += start_trackers(config, logger.message, resumed=resumed)
    return logger


def _engine(config: RunConfig, device: torch.device, precision: str, say: Callable[[str], None], *, fresh: bool) -> Engine:
    """Returns the engine with its task. A `fresh` run's weights come from `config.init`; others are restored later."""
    task = build_task(config, precision)
    if fresh:
        for line in load_initial_weights(task, config):
            say(line)
    for line in attach_momentum(task, config):
        say(line)
    if fresh:
        for line in load_initial_momentum(task, config):
            say(line)
    engine = build_engine(task, config, device, precision)
    say(f"AdamW: {engine.optimizer_name}; LayerNorm: {choose_norm(config.compute.layer_norm)}")
    return engine


def _dry_run(config: RunConfig, engine: Engine) -> None:
    """Runs a full-size mock batch before step 1, so that it detects too little memory now and not at the longest caption."""
    batch = kind_of(config.task).samples.mock(config).to(engine.device)
    try:
        engine.dry_run(batch, engine.task.schedule(math.inf))  # the end of the schedule, where all losses take part
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"train.micro_batch_size {config.train.micro_batch_size} does not fit into memory ({error}): lower it, set "
            "compute.checkpoint_visual=true and compute.checkpoint_multimodal=true, or use engine.stage=3"
        ) from None

"""Runs training from start to exit code. A failure of one rank ends all ranks, with one line.

The training loop is in `training/trainer.py`; `training/watchdog.py` detects hanging and dead ranks.
"""

from __future__ import annotations

import sys
import traceback

import torch.distributed as dist

from albef_ds.common import comm, exit_codes
from albef_ds.common.device import resolve_device
from albef_ds.common.errors import UserError, first_line
from albef_ds.config.schema import RunConfig, TrainConfig
from albef_ds.engine.build import start_ranks
from albef_ds.training.start import started
from albef_ds.training.stop import StopRequest
from albef_ds.training.watchdog import Phase, Watchdog, default_store


def run(config: RunConfig, resume: str | None = None, *, stop_after: float | None = None, overwrite: bool = False) -> int:
    """Trains with `config` and returns the exit code (`common/exit_codes.py`).

    Args:
        config: the configuration of the run.
        resume: a checkpoint folder, `auto` for the newest of the output folder, or None for a new run.
        stop_after: seconds after which to save and exit.
        overwrite: delete an earlier run in the output folder.

    Raises:
        UserError: anything that the user can fix. With several ranks, the first one prints it and all exit with
            `exit_codes.MISTAKE` instead.
    """
    request = StopRequest(stop_after)
    device = resolve_device(config.engine.device)
    start_ranks(config, device)
    train = config.train
    watchdog = Watchdog(default_store(), comm.rank(), comm.world_size(), _limits(train), train.silence_limit)
    watchdog.start()
    try:
        with request.installed():
            try:
                with started(config, device, request, watchdog, resume, overwrite=overwrite) as trainer:
                    code = trainer.run()
            except Exception as error:
                if not comm.is_distributed():
                    raise
                return _end_together(error, watchdog)
        watchdog.close()
        if dist.is_initialized():
            dist.destroy_process_group()
        return code
    except KeyboardInterrupt:
        watchdog.first_to_fail(exit_codes.INTERRUPTED)
        raise
    finally:
        watchdog.close()
        # Destroying a group that has lost a rank may hang: the end of the process destroys it.
        if dist.is_initialized() and not comm.is_distributed():
            dist.destroy_process_group()


def _end_together(error: Exception, watchdog: Watchdog) -> int:
    """Prints the error once for all ranks, waits until they know of it and returns the exit code.

    It prints before this rank ends, because a launcher then sends SIGTERM to the other ranks.
    """
    if isinstance(error, RuntimeError) and _is_broken_collective(error):
        return watchdog.report_loss(first_line(error))
    code = exit_codes.MISTAKE if isinstance(error, UserError) else exit_codes.DEFECT
    if watchdog.first_to_fail(code):
        if isinstance(error, UserError):
            print(f"albef-ds [rank {comm.rank()}]: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        else:
            traceback.print_exception(error)
        watchdog.wait_until_heard()
    return code


def _limits(train: TrainConfig) -> dict[Phase, float]:
    """Returns the seconds allowed for each phase of a run."""
    start, step, save = 60.0 * train.start_limit, 60.0 * train.step_limit, 60.0 * train.save_limit
    return {Phase.START: start, Phase.DATA: step, Phase.STEP: step, Phase.AGREEMENT: step, Phase.SAVE: save}


def _is_broken_collective(error: RuntimeError) -> bool:
    """Returns whether a peer is gone: NCCL and the store have their own error types, gloo raises `RuntimeError`."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)

"""`python -m albef_ds.cli.slurm.node COMMAND ARGS`: the one task that srun starts on each node.

Stages shards if the site has node-local scratch, then becomes torchrun, which starts one rank per GPU of the allocation. The
batch script sets the rendezvous address and port; the arguments are those of the command.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from albef_ds.checkpoint.training_progress import TrainingProgress
from albef_ds.cli.main import guarded
from albef_ds.cli.slurm.job import run_config
from albef_ds.common.errors import ConfigError, MachineError
from albef_ds.common.processes import python_path
from albef_ds.config.schema import RunConfig
from albef_ds.data.shards.format import MANIFEST_NAME, Manifest
from albef_ds.launch.slurm.attempts import newest_step

LEFT_TO_THE_RANKS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def torchrun_arguments(environment: Mapping[str, str], argv: Sequence[str]) -> list[str]:
    """Arguments of `torch.distributed.run` for this node.

    Raises:
        UserError: a variable that Slurm or the batch script sets is missing.
    """
    nodes, number = _needed(environment, "SLURM_JOB_NUM_NODES"), _needed(environment, "SLURM_NODEID")
    rendezvous = f"{_needed(environment, 'MASTER_ADDR')}:{_needed(environment, 'MASTER_PORT')}"
    return [
        f"--nnodes={nodes}",
        f"--nproc-per-node={ranks_per_node(environment)}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={rendezvous}",
        f"--rdzv-id={_needed(environment, 'SLURM_JOB_ID')}.{environment.get('SLURM_RESTART_COUNT', '0')}",
        # Explicit, because torchrun compares host names, which differ on machines with several interfaces.
        f"--rdzv-conf=is_host={int(number == '0')}",
        f"--local-addr={_needed(environment, 'SLURMD_NODENAME')}",
        "--max-restarts=0",
        "-m",
        "albef_ds.cli.slurm.rank",
        *argv,
    ]


def ranks_per_node(environment: Mapping[str, str]) -> int:
    """ALBEF_RANKS_PER_NODE, else one rank per GPU of the allocation, else 1.

    Raises:
        ConfigError: ALBEF_RANKS_PER_NODE is not a number from 1.
    """
    text = environment.get("ALBEF_RANKS_PER_NODE") or environment.get("SLURM_GPUS_ON_NODE") or "1"
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"ALBEF_RANKS_PER_NODE={text} is not a number of ranks: give 1 or more, or leave it out")
    return int(text)


def shards_here(config: RunConfig, environment: Mapping[str, str]) -> str:
    """`data.shards` for this node, with variables expanded; stages the shards in ALBEF_SCRATCH if that is set.

    ALBEF_SCRATCH may contain variables; ALBEF_SCRATCH_GB limits the total size of all copies. If the scratch folder cannot be
    used, training reads the shared file system and a line is printed.

    Raises:
        UserError: a shard differs from the manifest, or ALBEF_SCRATCH_GB is not a number.
    """
    shards = os.path.expandvars(config.data.shards)
    scratch, source = environment.get("ALBEF_SCRATCH"), Path(shards)
    if not scratch or not (source / MANIFEST_NAME).is_file():
        return shards
    from albef_ds.data.stream.order import SampleOrder  # start-up time
    from albef_ds.launch.slurm import staging

    node = environment.get("SLURMD_NODENAME", "this node")
    nodes = sorted(environment.get("ALBEF_NODES", node).split())
    batch, train = config.train.global_batch_size, config.train
    part = batch // len(nodes)
    place = nodes.index(node) if node in nodes else 0
    order = SampleOrder.of([shard.num_samples for shard in Manifest.load(source).shards], config)
    start = newest_step(Path(config.output)) * batch
    steps = TrainingProgress(train, order.num_samples).total_steps
    share = slice(place * part, (place + 1) * part)
    needed = staging.needed_shards(order, start, max(0, steps * batch - start) if steps else None, batch, share)
    folder = Path(os.path.expandvars(scratch))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        limit = _scratch_bytes(environment, folder)
        staged, mark = staging.stage(source, folder, environment.get("SLURM_JOB_ID", "job"), needed, limit)
    except OSError as error:
        print(f"slurm: {node}: {folder} cannot be used ({error}): reading {source} from the shared file system", flush=True)
        return shards
    os.set_inheritable(mark, True)  # torchrun replaces this process and must keep the staged folder marked as in use
    print(f"slurm: {node}: {staged}; reading {staged.folder}", flush=True)
    return str(staged.folder)


def time_limit(environment: Mapping[str, str]) -> list[str]:
    """`--stop-after` with the time left after staging until ALBEF_STOP_AT (seconds since 1970); empty without a time limit."""
    stop_at = environment.get("ALBEF_STOP_AT") or ""
    if not stop_at.isdecimal():
        return []
    left = int(stop_at) - int(time.time())
    if left > 0:
        return ["--stop-after", f"{left}s"]
    # The limit is too short for the margin: training stops at the signal that Slurm sends before the limit.
    print("slurm: the time limit is shorter than ALBEF_STOP_MARGIN: training stops at Slurm's signal", flush=True)
    return []


def _scratch_bytes(environment: Mapping[str, str], folder: Path) -> int:
    text = environment.get("ALBEF_SCRATCH_GB") or ""
    if not text:
        kept = sum(path.stat().st_size for path in (folder / "albef-ds" / "shards").glob("*.tar"))
        return int(kept + 0.9 * shutil.disk_usage(folder).free)
    try:
        return int(float(text) * 1e9)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"ALBEF_SCRATCH_GB={text} is not a number: give GB, or leave it out for nine tenths of the disk"
        ) from None


def _needed(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name)
    if not value:
        raise MachineError(f"{name} is not set: submit a script of slurm/, which sets it, instead of starting this program")
    return value


def too_few_cores(cores: int, ranks: int, workers: int) -> str:
    """A warning if there are fewer than two cores per rank (one if it has no loader `workers`), else ''."""
    if cores >= ranks * (1 + bool(workers)):
        return ""
    asked = "ask sbatch for more, such as --cpus-per-gpu=8 in ALBEF_SBATCH_OPTIONS of slurm/site.env"
    return f"slurm: {cores} core(s) for {ranks} rank(s) with {workers} loader processes each: {asked}"


def main(argv: list[str]) -> int:
    """Stages shards, then replaces this process by torchrun. Returns only with the exit code of a mistake."""
    # torchrun would forward a signal and kill its ranks half a minute later, even while they save. Slurm signals every process
    # of a task, so ranks receive it directly with handlers of their own; torchrun keeps ignoring it.
    for number in LEFT_TO_THE_RANKS:
        signal.signal(number, signal.SIG_IGN)
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGINT"
    config = run_config(argv)
    if config is not None and (shards := shards_here(config, os.environ)) != config.data.shards:
        argv = [*argv, f"data.shards={shards}"]
    argv = [*argv, *time_limit(os.environ)]
    os.environ["PYTHONPATH"] = python_path()
    ranks, cores = ranks_per_node(os.environ), len(os.sched_getaffinity(0))
    if note := too_few_cores(cores, ranks, config.data.num_workers if config is not None else 0):
        print(note, flush=True)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // ranks)))
    command = [sys.executable, "-m", "torch.distributed.run", *torchrun_arguments(os.environ, argv)]
    sys.stdout.flush()
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))

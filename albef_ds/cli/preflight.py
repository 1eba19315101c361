"""`albef-ds preflight`: checks the nodes of a job, or this machine, for a run before it starts."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from albef_ds.cli import train
from albef_ds.cli.arguments import config_from
from albef_ds.common.errors import ConfigError

EXAMPLES = """\
  this machine
      albef-ds preflight --recipe pretrain_14m data.shards=SHARDS output=runs/14m
  the nodes of a job of its own, each named with what it lacks
      sbatch --nodes=8 slurm/preflight.sbatch --recipe pretrain_14m data.shards=SHARDS output=runs/14m

The arguments of `albef-ds train` pass as they are. Exit codes: 0 all nodes are fit, 2 a mistake in what was given or no node is
fit (one line says why), 3 some nodes are unfit and named."""


def main(argv: list[str]) -> int:
    """Check the nodes and return the exit code. Raises `ConfigError` for anything the user can mend."""
    command = train.parser()
    command.prog, command.epilog = "albef-ds preflight", f"examples:\n{EXAMPLES}"
    command.description = "Check shards, checkpoint folder, versions, clocks, disks, GPUs and network of every node of a run."
    command.add_argument("--seconds", metavar="N", type=_positive, default=60.0, help="time for every node's answer (60)")
    command.add_argument("--min-free-gb", metavar="GB", type=_positive, default=None, help="disk that must be free (10)")
    command.add_argument("--no-all-reduce", action="store_true", help="leave out the all-reduce over all nodes")
    command.add_argument("--bad-nodes", metavar="FILE", type=Path, help="write the names of unfit nodes here")
    arguments = command.parse_intermixed_args(argv)
    config = config_from(arguments, [f"output={arguments.output}"] if arguments.output else [])
    min_free = arguments.min_free_gb
    if min_free is None:
        try:
            min_free = _positive(os.environ.get("ALBEF_MIN_FREE_GB") or "10")
        except argparse.ArgumentTypeError as error:
            raise ConfigError(f"ALBEF_MIN_FREE_GB: {error}") from None
    from albef_ds.launch.checks import preflight  # start-up time

    return preflight.run(
        config,
        preflight.Place.of(os.environ),
        seconds=arguments.seconds,
        min_free_gb=min_free,
        scratch=os.environ.get("ALBEF_SCRATCH", ""),
        all_reduce=not arguments.no_all_reduce,
        bad_nodes=arguments.bad_nodes,
    )


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is no number: give 0 or more")
    return value

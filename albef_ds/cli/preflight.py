"""`albef-ds preflight`: checks the nodes of a job, or this machine, before a run."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from albef_ds.cli import train
from albef_ds.cli.arguments import config_from, number_between
from albef_ds.common.errors import ConfigError

EXAMPLES = """\
  this machine
      albef-ds preflight --recipe pretrain_14m data.shards=SHARDS output=runs/14m
  the nodes of a separate job, with the problems of each
      sbatch --nodes=8 slurm/preflight.sbatch --recipe pretrain_14m data.shards=SHARDS output=runs/14m

Takes the arguments of `albef-ds train`. Exit codes: 0 all nodes are fit, 2 a user's mistake or no node is fit (one line says
why), 3 some nodes are unfit and named."""

_NUMBER = number_between(0, 999_999)


def main(argv: list[str]) -> int:
    """Checks the nodes and returns the exit code. Raises `ConfigError` for a user's mistake."""
    command = train.parser()
    command.prog, command.epilog = "albef-ds preflight", f"examples:\n{EXAMPLES}"
    command.description = "Check shards, checkpoint folder, versions, clocks, disks, GPUs and network of every node of a run."
    command.add_argument("--seconds", metavar="N", type=_NUMBER, default=60.0, help="time for every node's answer (60)")
    command.add_argument("--min-free-gb", metavar="GB", type=_NUMBER, default=None, help="disk that must be free (10)")
    command.add_argument("--no-all-reduce", action="store_true", help="skip the all-reduce over all nodes")
    command.add_argument("--bad-nodes", metavar="FILE", type=Path, help="write the names of unfit nodes to FILE")
    arguments = command.parse_intermixed_args(argv)
    config = config_from(arguments, [f"output={arguments.output}"] if arguments.output else [])
    min_free = arguments.min_free_gb
    if min_free is None:
        try:
            min_free = _NUMBER(os.environ.get("ALBEF_MIN_FREE_GB") or "10")
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

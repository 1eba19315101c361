"""`albef-ds doctor`: checks this machine and its packages, with a fix for every problem."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from albef_ds.cli.arguments import CommandParser
from albef_ds.common.errors import ConfigError
from albef_ds.common.exit_codes import CHECK_FAILED

EXAMPLES = """\
  this machine
      albef-ds doctor
  as JSON, with the disk that runs will be written to
      albef-ds doctor --json --folder /scratch/me

ok: no problem. note: it works, but slower or with fewer features. mend: it does not work and must be fixed.
Exit codes: 0 nothing must be fixed, 1 something must, 2 a user's mistake. `albef-ds preflight` checks the nodes of a job and a
run's files."""


def main(argv: list[str]) -> int:
    """Prints the findings and returns the exit code. Raises `ConfigError` if the folder does not exist."""
    command = CommandParser("doctor", "Check versions, GPUs, kernels, compilers, network, disk and Slurm.", EXAMPLES)
    command.add_argument("--folder", type=Path, default=Path("."), metavar="DIR", help="folder on the disk to check (this one)")
    command.add_argument("--json", action="store_true", help="print a JSON list")
    arguments = command.parse_args(argv)
    if not arguments.folder.is_dir():
        raise ConfigError(f"--folder {arguments.folder} is not a folder: give one that runs will be written to")
    from albef_ds.launch.checks.doctor import machine, software  # start-up time
    from albef_ds.launch.checks.doctor.finding import findings

    checks = {
        "packages": software.versions,
        "devices": machine.devices,
        "network": machine.network,
        "kernels": software.kernels,
        "compilers": software.compiled,
        "disk": lambda: machine.disk(arguments.folder),
        "Slurm": machine.slurm,
    }
    found = []
    for finding in findings(checks):
        found.append(finding)
        if not arguments.json:
            print(finding, flush=True)
    bad = sum(finding.state == "mend" for finding in found)
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in found], indent=1))
    else:
        print(f"{bad} of {len(found)} must be fixed" if bad else f"{len(found)} looked at, nothing must be fixed")
    return CHECK_FAILED if bad else 0

"""`albef-ds doctor`: what of this machine and its packages is fine, and how to mend the rest."""

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
  for a program, with the disk that runs will be written to
      albef-ds doctor --json --folder /scratch/me

ok: fine. note: it runs, but slower or with less than it could. mend: it does not run, or not as asked for.
Exit codes: 0 nothing must be mended, 1 something must, 2 a mistake in what was given. The nodes of a job and a run's own
files are checked by `albef-ds preflight`."""


def main(argv: list[str]) -> int:
    """Print the findings and return the exit code. Raises `ConfigError` for a folder that is not there."""
    command = CommandParser("doctor", "Look at versions, GPUs, kernels, compilers, network, disk and Slurm.", EXAMPLES)
    command.add_argument("--folder", type=Path, default=Path("."), metavar="DIR", help="whose disk is measured (this one)")
    command.add_argument("--json", action="store_true", help="print a JSON list")
    arguments = command.parse_args(argv)
    if not arguments.folder.is_dir():
        raise ConfigError(f"--folder {arguments.folder} is no folder: give one that runs will be written to")
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
        print(f"{bad} of {len(found)} must be mended" if bad else f"{len(found)} looked at, nothing must be mended")
    return CHECK_FAILED if bad else 0

"""`albef-data`: from raw image-text corpora to clean, deduplicated, globally shuffled shards.

Turns a `UserError` into one line and exit code 2. The stages' packages are imported only to run one, so that help starts fast.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from albef_ds.common import exit_codes
from albef_ds.common.errors import MachineError, UserError
from data_tools.cli import arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `albef-data`; returns the exit code: 0, 1 (verify found problems) or 2 (a user's mistake, one line)."""
    args = arguments.parsers()[0].parse_args(argv)
    if args.command == "stages":
        print(json.dumps(arguments.stages(), indent=1))
        return 0
    try:
        return _run(args)
    except UserError as error:
        # Only a damaged stage has a name; its class is not imported here, since its module imports pyarrow.
        stage = getattr(error, "stage", "")
        mend = f" (`albef-data {stage}{' --restart' if error.is_map else ''}`)" if stage else ""  # type: ignore[attr-defined]
        print(f"albef-data: {error}{mend}", file=sys.stderr)
        return exit_codes.MISTAKE
    except KeyboardInterrupt:
        print("albef-data: stopped; run again to continue", file=sys.stderr)
        return exit_codes.INTERRUPTED


def _run(args: argparse.Namespace) -> int:
    try:
        from data_tools.cli.commands import COMMANDS  # here: start-up and optional packages, the stages import pyarrow and scipy
    except ModuleNotFoundError as error:
        if error.name not in ("fsspec", "pyarrow", "scipy"):
            raise
        raise MachineError(f"{error.name} is not installed: pip install 'albef-ds[data]'") from None
    return COMMANDS[args.command](args)

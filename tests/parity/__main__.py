"""Command line of the comparison with the golden numbers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from albef_ds.config.schema import ComputeConfig
from tests.parity import finetune, pretrain
from tests.parity.case import GoldenCase

RUNNERS = {"pretrain": pretrain.run_case, **dict.fromkeys(finetune.KINDS, finetune.run_case)}
PRECISIONS = ("fp32", "fp64")


def main(argv: list[str] | None = None) -> int:
    """Compare, print, and return 0 where everything lies within its bound, 1 where not, 2 for a wrong call."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("directory", type=Path, help="golden directory: config.json and one .json per case")
    parser.add_argument("--kinds", default=",".join(RUNNERS), help="comma-separated, of: %(default)s")
    parser.add_argument("--precisions", default=",".join(PRECISIONS), help="comma-separated, of: %(default)s")
    args = parser.parse_args(argv)
    kinds = args.kinds.split(",")
    if unknown := set(kinds) - set(RUNNERS):
        print(f"--kinds {','.join(sorted(unknown))} is not known: choose of {','.join(RUNNERS)}", file=sys.stderr)
        return 2
    precisions = args.precisions.split(",")
    if unknown := set(precisions) - set(PRECISIONS):
        print(f"--precisions {','.join(sorted(unknown))} is not known: choose of {','.join(PRECISIONS)}", file=sys.stderr)
        return 2
    names = sorted(path.stem for kind in kinds for path in args.directory.glob(f"{kind}_a*.json"))
    if not names:
        print(f"{args.directory} holds no case of kind {args.kinds}: give a folder like tests/golden/public", file=sys.stderr)
        return 2
    failed = 0
    for name in names:
        case = GoldenCase(args.directory, name)
        for precision in precisions:
            report = RUNNERS[name.split("_")[0]](case, precision, ComputeConfig())
            failed += not report.ok
            print(f"{name} {precision}: {'ok' if report.ok else 'FAILED'}")
            for quantity, (deviation, bound) in report.worst.items():
                mark = "" if deviation <= bound else "   <-- beyond"
                print(f"    {quantity:28s} {deviation:9.2e}  (bound {bound:.0e}){mark}")
    print(f"{len(names)} cases, {failed} comparisons failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

